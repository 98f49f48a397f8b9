//! SSH agents of the build, as steps and git find them: a socket, and somebody behind it who asks the user's agent, or signs with
//! keys that the user has given as files.
//!
//! Who comes to the socket may have the public keys listed and data signed, and nothing else: no key can be added or removed, and
//! the agent not be locked. BuildKit allows the same.

mod key;
mod wire;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

#[cfg(test)]
pub(crate) use key::example as example_key;
pub use key::{Key, KeyError};
use wire::Request;

use crate::sandbox::{MountedDirectory, Root};

/// The socket's name in its directory.
const NAME: &str = "agent";

/// Who answers behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// The agent at this socket.
    Socket(PathBuf),
    /// We ourselves, with these keys.
    Keys(Vec<Key>),
}

impl Agent {
    /// The answer to a message; `upstream` is the user's agent, if it is that which answers.
    async fn answer(&self, message: &[u8], upstream: Option<&mut UnixStream>) -> io::Result<Vec<u8>> {
        Ok(match (wire::request(message), self, upstream) {
            (None, _, _) => wire::failure(),
            (Some(_), Self::Socket(_), Some(agent)) => {
                wire::write(agent, message).await?;
                wire::read(agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            (Some(_), Self::Socket(_), None) => wire::failure(),
            (Some(Request::List), Self::Keys(keys), _) => wire::list(keys),
            (Some(Request::Sign { public, data, flags }), Self::Keys(keys), _) => {
                let key = keys.iter().find(|key| key.public() == public);
                let signature = key.and_then(|key| key.sign(data, flags));
                signature.map_or_else(wire::failure, |signature| wire::signature(&signature))
            }
        })
    }

    /// Answers one after the other what somebody asks.
    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut upstream = match self {
            Self::Socket(path) => Some(UnixStream::connect(path).await?),
            Self::Keys(_) => None,
        };
        while let Some(message) = wire::read(&mut stream).await? {
            let answer = self.answer(&message, upstream.as_mut()).await?;
            wire::write(&mut stream, &answer).await?;
        }
        Ok(())
    }
}

/// A socket that leads to an agent, for as long as this lives.
#[derive(Debug)]
pub(super) struct Served {
    task: JoinHandle<()>,
}

impl Served {
    /// Makes the socket in `directory` for a step, and gives it too, path-only. Must be called where tasks can be started.
    ///
    /// # Errors
    /// If there is no agent, or the socket cannot be made.
    pub async fn in_step(
        root: &Root,
        directory: &MountedDirectory,
        agent: Agent,
    ) -> io::Result<(Self, OwnedFd)> {
        Self::try_out(&agent).await?;
        let listener = {
            // Whose the socket is decides who may connect to it.
            let _identity = root.identity().map_err(io::Error::other)?;
            // A path to a socket has 108 bytes: that of the state directory may be longer.
            let path = format!("/proc/self/fd/{}/{NAME}", directory.directory().as_fd().as_raw_fd());
            std::os::unix::net::UnixListener::bind(path)?
        };
        let socket = directory.entry(NAME.as_bytes())?;
        Ok((Self::start(listener, agent)?, socket))
    }

    /// Makes the socket `path` for a program of the build's own.
    ///
    /// # Errors
    /// If there is no agent, or the socket cannot be made.
    pub async fn at(path: &Path, agent: Agent) -> io::Result<Self> {
        Self::try_out(&agent).await?;
        Self::start(std::os::unix::net::UnixListener::bind(path)?, agent)
    }

    /// An agent that is not there is to be told of now, and not by a program in the step.
    async fn try_out(agent: &Agent) -> io::Result<()> {
        match agent {
            Agent::Socket(path) => UnixStream::connect(path).await.map(drop),
            Agent::Keys(_) => Ok(()),
        }
    }

    fn start(listener: std::os::unix::net::UnixListener, agent: Agent) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { task: tokio::spawn(serve(listener, agent)) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, agent: Agent) {
    // Connections end with the task: what a step has left running is dead by then.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let agent = agent.clone();
        connections.spawn(async move {
            if let Err(error) = agent.converse(stream).await {
                tracing::debug!(%error, "a connection to the SSH agent has ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
