//! The session of a browser: a cookie in place of the token, because a page cannot add an Authorization field.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderValue, header};

/// How long a browser stays signed in.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Separates this use of the token from any other.
const PURPOSE: &[u8] = b"efs-autoscale file-service session v1";
/// A longer Cookie field is not read.
const MAX_COOKIE_BYTES: usize = 4096;

/// Issues and verifies cookies. A cookie is `EXPIRY.MAC`: seconds since 1970, and HMAC-SHA256 of them with a key that is
/// derived from the token. So every task behind a load balancer accepts it, without shared state, and nobody learns the token
/// from it.
#[derive(Debug)]
pub(crate) struct Sessions {
    key: hmac::Key,
    /// Over TLS the name has the prefix `__Host-`: browsers then send it over TLS to this host only (RFC 6265bis).
    name: &'static str,
    is_secure: bool,
}

impl Sessions {
    pub fn new(token: &[u8], is_secure: bool) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token), PURPOSE);
        let name = if is_secure { "__Host-efs-session" } else { "efs-session" };
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()), name, is_secure }
    }

    /// The Set-Cookie field of a new session.
    pub fn issue(&self, now: SystemTime) -> HeaderValue {
        let expiry = (seconds(now) + SESSION_LIFETIME.as_secs()).to_string();
        let mac = hex(hmac::sign(&self.key, expiry.as_bytes()).as_ref());
        self.cookie(&format!("{expiry}.{mac}"), SESSION_LIFETIME.as_secs())
    }

    /// The Set-Cookie field that ends a session.
    pub fn end(&self) -> HeaderValue {
        self.cookie("", 0)
    }

    /// Whether the request has a cookie of this service that has not expired.
    pub fn is_open(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookies = cookies.filter(|text| text.len() <= MAX_COOKIE_BYTES).flat_map(|text| text.split(';'));
        let mut values = cookies.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == self.name);
        values.any(|(_, value)| self.is_valid(value, now))
    }

    fn is_valid(&self, value: &str, now: SystemTime) -> bool {
        let Some((expiry, mac)) = value.split_once('.') else { return false };
        let Some(mac) = unhex(mac) else { return false };
        // Compares in constant time.
        hmac::verify(&self.key, expiry.as_bytes(), &mac).is_ok()
            && expiry.parse::<u64>().is_ok_and(|expiry| expiry > seconds(now))
    }

    fn cookie(&self, value: &str, lifetime: u64) -> HeaderValue {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let text = format!("{}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Strict{secure}", self.name);
        // Digits, letters and the attributes above are all visible ASCII.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| text.as_bytes().chunks(2))?
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookie.parse().unwrap());
        headers
    }

    #[test]
    fn a_session_is_open_until_it_expires_and_for_its_token_only() {
        let (now, sessions) = (SystemTime::now(), Sessions::new(b"secret", false));
        let issued = sessions.issue(now);
        let issued = issued.to_str().unwrap();
        assert!(issued.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{issued}");
        let pair = issued.split(';').next().unwrap();
        assert!(!pair.contains("secret"));
        assert!(sessions.is_open(&with(pair), now));
        assert!(sessions.is_open(&with(&format!("a=b; {pair}; c")), now));
        // Another task with the same token accepts it; one with another token does not.
        assert!(Sessions::new(b"secret", false).is_open(&with(pair), now));
        assert!(!Sessions::new(b"other", false).is_open(&with(pair), now));
        assert!(!Sessions::new(b"secret", true).is_open(&with(pair), now), "without TLS issued, over TLS not accepted");
        assert!(!sessions.is_open(&with(pair), now + SESSION_LIFETIME));
        assert!(!sessions.is_open(&HeaderMap::new(), now));
    }

    #[test]
    fn a_changed_cookie_is_none() {
        let (now, sessions) = (SystemTime::now(), Sessions::new(b"secret", true));
        let issued = sessions.issue(now);
        let pair = issued.to_str().unwrap().split(';').next().unwrap().to_owned();
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!(name, "__Host-efs-session");
        let (expiry, mac) = value.split_once('.').unwrap();
        let later = (expiry.parse::<u64>().unwrap() + 1).to_string();
        for forged in [
            format!("{later}.{mac}"),
            format!("+{expiry}.{mac}"),
            format!("{expiry}.{}", &mac[..62]),
            format!("{expiry}.{}", "0".repeat(64)),
            format!("{expiry}."),
            expiry.to_owned(),
            String::new(),
            ".".to_owned(),
        ] {
            assert!(!sessions.is_open(&with(&format!("{name}={forged}")), now), "{forged}");
        }
        assert!(!sessions.is_open(&with(&format!("{pair}; {}", "x".repeat(5000))), now), "too long to read");
    }
}
