//! The agent protocol (draft-ietf-sshm-ssh-agent), as far as it is spoken here: a message is its length and its bytes, the first of
//! which says what it is. Numbers are big-endian, texts have their length in front.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::key::Key;

/// Longest message, in bytes: OpenSSH's limit.
const LONGEST: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// What may be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Which keys there are.
    List,
    /// To sign `data` with a key.
    Sign { public: &'a [u8], data: &'a [u8], flags: u32 },
}

/// Reads a request; nothing if it is of another kind, or garbled.
pub(super) fn request(message: &[u8]) -> Option<Request<'_>> {
    let (kind, rest) = message.split_first()?;
    match *kind {
        REQUEST_IDENTITIES if rest.is_empty() => Some(Request::List),
        SIGN_REQUEST => {
            let mut rest = Reader(rest);
            let (public, data, flags) = (rest.text()?, rest.text()?, rest.number()?);
            rest.0.is_empty().then_some(Request::Sign { public, data, flags })
        }
        _ => None,
    }
}

/// The answer to what is not done.
pub(super) fn failure() -> Vec<u8> {
    vec![FAILURE]
}

/// The answer that lists keys.
pub(super) fn list(keys: &[Key]) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    answer.extend(length(keys.len()));
    for key in keys {
        text(&mut answer, key.public());
        text(&mut answer, key.comment().as_bytes());
    }
    answer
}

/// The answer that has a signature.
pub(super) fn signature(signature: &[u8]) -> Vec<u8> {
    let mut answer = vec![SIGN_RESPONSE];
    text(&mut answer, signature);
    answer
}

/// Appends a text with its length.
pub(super) fn text(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(length(bytes.len()));
    to.extend_from_slice(bytes);
}

/// Appends a number of any size that is not negative, given by its bytes, highest first (RFC 4251, `mpint`).
pub(super) fn number(to: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    // The highest bit would make it negative.
    let sign: &[u8] = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    text(to, &[sign, bytes].concat());
}

/// Texts are shorter than messages, and those than 4 GiB.
fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_be_bytes()
}

/// What is still to be read of some bytes. Where they end too soon there is nothing.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A number of four bytes.
    pub fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    /// A text, or a number of any size.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

/// Reads a message; nothing where the other side has ended.
pub(super) async fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message.
pub(super) async fn write(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut written = Vec::with_capacity(message.len() + 4);
    text(&mut written, message);
    stream.write_all(&written).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[11], Some(Request::List))]
    #[case(&[13, 0, 0, 0, 1, b'k', 0, 0, 0, 2, b'd', b'e', 0, 0, 0, 4], Some(Request::Sign { public: b"k", data: b"de", flags: 4 }))]
    #[case::adding(&[17, 0, 0, 0, 0], None)]
    #[case::removing_all(&[19], None)]
    #[case::extension(&[27, 0, 0, 0, 0], None)]
    #[case::nothing(&[], None)]
    #[case::cut_off(&[13, 0, 0, 0, 9, b'k'], None)]
    #[case::without_flags(&[13, 0, 0, 0, 0, 0, 0, 0, 0], None)]
    #[case::too_long(&[13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0], None)]
    #[case::more_than_all(&[13, 0xff, 0xff, 0xff, 0xff], None)]
    fn requests(#[case] message: &[u8], #[case] expected: Option<Request<'_>>) {
        assert_eq!(request(message), expected);
    }

    /// RFC 4251, section 5.
    #[rstest]
    #[case(&[], &[0, 0, 0, 0])]
    #[case(&[0, 0], &[0, 0, 0, 0])]
    #[case(&[9, 0xa3], &[0, 0, 0, 2, 9, 0xa3])]
    #[case(&[0, 0x80], &[0, 0, 0, 2, 0, 0x80])]
    fn numbers(#[case] bytes: &[u8], #[case] expected: &[u8]) {
        let mut written = Vec::new();
        number(&mut written, bytes);
        assert_eq!(written, expected);
    }
}
