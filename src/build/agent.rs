//! The SSH agent of the build, as a step finds it: a socket beside the root, and somebody who carries bytes between the two.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::sandbox::{MountedDirectory, Root};

/// The socket's name in its directory.
const NAME: &str = "agent";

/// A socket that leads to an agent, for as long as this lives.
#[derive(Debug)]
pub(super) struct Forwarded {
    task: JoinHandle<()>,
}

impl Forwarded {
    /// Makes the socket in `directory`, and gives it too, path-only. Must be called where tasks can be started.
    ///
    /// # Errors
    /// If there is no agent at `agent`, or the socket cannot be made.
    pub async fn start(
        root: &Root,
        directory: &MountedDirectory,
        agent: PathBuf,
    ) -> io::Result<(Self, OwnedFd)> {
        // An agent that is not there is to be told of now, and not by a program in the step.
        UnixStream::connect(&agent).await?;
        let listener = {
            // Whose the socket is decides who may connect to it.
            let _identity = root.identity().map_err(io::Error::other)?;
            // A path to a socket has 108 bytes: that of the state directory may be longer.
            let path = format!("/proc/self/fd/{}/{NAME}", directory.directory().as_fd().as_raw_fd());
            std::os::unix::net::UnixListener::bind(path)?
        };
        listener.set_nonblocking(true)?;
        let socket = directory.entry(NAME.as_bytes())?;
        let listener = UnixListener::from_std(listener)?;
        Ok((Self { task: tokio::spawn(serve(listener, agent.into())) }, socket))
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, agent: Arc<Path>) {
    // Connections end with the task: what a step has left running is dead by then.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((mut step, _)) = listener.accept().await else { return };
        let agent = Arc::clone(&agent);
        connections.spawn(async move {
            let carried = async {
                let mut agent = UnixStream::connect(&agent).await?;
                tokio::io::copy_bidirectional(&mut step, &mut agent).await
            };
            if let Err(error) = carried.await {
                tracing::debug!(%error, "a connection to the SSH agent has ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
