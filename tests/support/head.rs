//! What comes before a body in HTTP/1.1, for proxies.

use std::io::{self, BufRead, ErrorKind};

/// A request or an answer up to its body, as it came.
pub struct Head {
    pub bytes: Vec<u8>,
}

impl Head {
    /// # Errors
    /// If the connection ends before it does.
    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut bytes = Vec::new();
        loop {
            let line = bytes.len();
            if from.read_until(b'\n', &mut bytes)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if matches!(bytes.get(line..), Some(b"\r\n" | b"\n")) {
                return Ok(Self { bytes });
            }
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("heads are text")
    }

    /// The first line: what is asked, or how it is answered.
    pub fn line(&self) -> &str {
        self.text().lines().next().unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.text().lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}
