//! `nfs://host[:port]/path`, as RFC 2224 has it.

use std::{fmt, str::FromStr};

use nfs41::Credentials;

const PORT: u16 = 2049;
const SCHEME: &str = "nfs://";
/// As long as Linux takes.
const MAX_PATH_BYTES: usize = 4096;
const MAX_NAME_BYTES: usize = 255;

/// A directory of a server, and the credentials to read it with.
#[derive(Clone, Debug)]
pub struct Location {
    /// A name, or an address.
    pub host: String,
    /// TCP port; 2049 by default.
    pub port: u16,
    /// At the server; empty for its root.
    pub path: Vec<u8>,
    /// Those of this process, unless others are given. A server may believe them or not.
    pub credentials: Credentials,
    /// `None`: without TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<nfs41::tls::Tls>,
}

/// Why a text is not a location.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadLocation {
    /// The scheme is not `nfs://`.
    #[error("it does not begin with {SCHEME}")]
    Scheme,
    /// There is no host.
    #[error("it has no host; expected nfs://host[:port]/path, and an IPv6 address in brackets")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is no port; expected a number from 1 to 65535")]
    Port(String),
    /// A `%` is not followed by two hexadecimal digits.
    #[error("a % in it is not followed by two hexadecimal digits; write %25 for a % in a name")]
    Escape,
    /// A character that is reserved in URLs.
    #[error("{0} has another meaning in a URL; write %{number:02X} for it in a name", number = u32::from(*.0))]
    Reserved(char),
    /// A name that no server accepts.
    #[error("a name in its path is . or .., is longer than {MAX_NAME_BYTES} bytes, or has a slash or a NUL in it")]
    Name,
    /// The path is longer than 4096 bytes.
    #[error("its path is longer than {MAX_PATH_BYTES} bytes")]
    Long,
}

impl Location {
    /// A location without TLS, with the credentials of this process.
    pub fn new(host: impl Into<String>, port: u16, path: impl Into<Vec<u8>>) -> Self {
        Self {
            host: host.into(),
            port,
            path: path.into(),
            credentials: Credentials::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A path as it is, without escapes, if it can be one: without `.` and `..`, and not too long.
    ///
    /// # Errors
    /// [`BadLocation::Name`], [`BadLocation::Long`].
    pub fn checked(path: &[u8]) -> Result<Vec<u8>, BadLocation> {
        let names: Vec<_> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let is_good =
            |name: &&[u8]| name.len() <= MAX_NAME_BYTES && !matches!(*name, b"." | b"..") && !name.contains(&0);
        let path = names.join(&b'/');
        match names.iter().all(is_good) {
            true if path.len() <= MAX_PATH_BYTES => Ok(path),
            true => Err(BadLocation::Long),
            false => Err(BadLocation::Name),
        }
    }

    /// Is it meant as one?
    pub fn is_meant(text: &str) -> bool {
        text.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
    }
}

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(text: &str) -> Result<Self, BadLocation> {
        if !Self::is_meant(text) {
            return Err(BadLocation::Scheme);
        }
        let rest = &text[SCHEME.len()..];
        let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match server.strip_prefix('[') {
            Some(address) => {
                let (address, port) = address.split_once(']').ok_or(BadLocation::Host)?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(BadLocation::Host)?) };
                (address, port)
            }
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_good) {
            return Err(BadLocation::Host);
        }
        let port = match port {
            None => PORT,
            Some(port) => {
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| BadLocation::Port(port.to_owned()))?
            }
        };
        Ok(Self::new(host, port, unescaped(path)?))
    }
}

fn unescaped(path: &str) -> Result<Vec<u8>, BadLocation> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                // A name has none, and here it would part two.
                (Some(2), Some(0xF)) => return Err(BadLocation::Name),
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Err(BadLocation::Escape),
            },
            b'?' | b'#' => return Err(BadLocation::Reserved(byte.into())),
            _ => byte,
        });
    }
    Location::checked(&bytes)
}

/// As it would be read again.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "{SCHEME}[{}]", self.host)?,
            false => write!(f, "{SCHEME}{}", self.host)?,
        }
        if self.port != PORT {
            write!(f, ":{}", self.port)?;
        }
        f.write_str("/")?;
        self.path.iter().try_for_each(|byte| match byte {
            b'%' | b'?' | b'#' | b'"' | b'\\' => write!(f, "%{byte:02X}"),
            byte if byte.is_ascii_graphic() => write!(f, "{}", char::from(*byte)),
            byte => write!(f, "%{byte:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_location_says_where() {
        for (text, host, port, path) in [
            ("nfs://10.0.0.7/data", "10.0.0.7", 2049, &b"data"[..]),
            ("nfs://10.0.0.7", "10.0.0.7", 2049, b""),
            ("NFS://fs-1.efs.eu-west-1.amazonaws.com:2050//a//b/", "fs-1.efs.eu-west-1.amazonaws.com", 2050, b"a/b"),
            ("nfs://[::1]:2049/a%20b%ff%25", "::1", 2049, b"a b\xff%"),
            ("nfs://[fe80::1]/", "fe80::1", 2049, b""),
            ("nfs://h/\u{e9}", "h", 2049, "\u{e9}".as_bytes()),
        ] {
            let found: Location = text.parse().unwrap();
            assert_eq!((&*found.host, found.port, &*found.path), (host, port, path), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, part) in [
            ("/mnt/data", "nfs://"),
            ("nfs:/h/a", "nfs://"),
            ("nfs://", "no host"),
            ("nfs:///data", "no host"),
            ("nfs://user@h/a", "no host"),
            ("nfs://[::1/a", "brackets"),
            ("nfs://::1/a", "brackets"),
            ("nfs://h:/a", "\"\" is no port"),
            ("nfs://h:0/a", "1 to 65535"),
            ("nfs://h:65536/a", "1 to 65535"),
            ("nfs://h/a%2", "hexadecimal"),
            ("nfs://h/100%", "%25"),
            ("nfs://h/what?", "%3F"),
            ("nfs://h/../a", "."),
            ("nfs://h/a/%2e%2E", "."),
            ("nfs://h/a%2fb", "slash"),
            ("nfs://h/a%00", "NUL"),
        ] {
            let err = text.parse::<Location>().unwrap_err().to_string();
            assert!(err.contains(part), "{text}: {err}");
        }
        assert_eq!(format!("nfs://h/{}", "a/".repeat(2049)).parse::<Location>().unwrap_err(), BadLocation::Long);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(names in proptest::collection::vec("[^/\0]{1,40}", 0..5), port in 1_u16..) {
            prop_assume!(!names.iter().any(|name| matches!(&**name, "." | "..") || name.len() > 255));
            let location = Location::new("::1", port, names.join("/"));
            let again: Location = location.to_string().parse().unwrap();
            prop_assert_eq!((again.host, again.port, again.path), (location.host, location.port, location.path));
        }

        #[test]
        fn anything_else_is_an_error_and_no_panic(text in "(nfs://)?.{0,60}") {
            let _ = text.parse::<Location>();
        }
    }
}
