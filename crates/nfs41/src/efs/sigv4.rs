//! The signature by which Amazon EFS authenticates a certificate: Signature Version 4 of a request that is never sent. The
//! sources of its parts are listed in [`super`].

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{digest, hmac};
use time::OffsetDateTime;

use super::{Credentials, Subject};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "elasticfilesystem";
/// `X-Amz-Expires` in seconds. The certificate expires long before.
const EXPIRES: u32 = 86_400;

/// A time with a precision of one second, from 2000 to 2049.
#[derive(Clone, Copy)]
pub(super) struct Moment(OffsetDateTime);

impl Moment {
    /// `None` before 2000, when the clock is not set, and after 2049, since a UTCTime then means a year of the 20th century.
    pub(super) fn new(time: SystemTime) -> Option<Self> {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let moment = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
        (2000..2050).contains(&moment.year()).then_some(Self(moment))
    }

    pub(super) fn date_time(self) -> OffsetDateTime {
        self.0
    }

    pub(super) fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.unix_timestamp().unsigned_abs())
    }

    fn day(self) -> String {
        format!("{:04}{:02}{:02}", self.0.year(), u8::from(self.0.month()), self.0.day())
    }

    fn time_of_day(self) -> String {
        format!("{:02}{:02}{:02}", self.0.hour(), self.0.minute(), self.0.second())
    }

    /// ISO 8601 basic format, as in a request: `20000101T120000Z`.
    pub(super) fn long(self) -> String {
        format!("{}T{}Z", self.day(), self.time_of_day())
    }

    /// UTCTime: `000101120000Z`.
    pub(super) fn short(self) -> String {
        let day = format!("{:02}{:02}{:02}", self.0.year() % 100, u8::from(self.0.month()), self.0.day());
        format!("{day}{}Z", self.time_of_day())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encodes all but the unreserved characters (RFC 3986).
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn scope(moment: Moment, region: &str) -> String {
    format!("{}/{region}/{SERVICE}/aws4_request", moment.day())
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// The canonical request. `key_hash` binds the signature to the key.
fn canonical_request(
    key_hash: &str,
    moment: Moment,
    access_key_id: &str,
    session_token: Option<&str>,
    subject: &Subject,
) -> String {
    let credential = format!("{access_key_id}/{}", scope(moment, &subject.region));
    let expires = EXPIRES.to_string();
    let date = moment.long();
    // Sorted by name.
    let query = [
        ("Action", Some("Connect")),
        ("PublicKeyHash", Some(key_hash)),
        ("X-Amz-Algorithm", Some(ALGORITHM)),
        ("X-Amz-Credential", Some(&credential)),
        ("X-Amz-Date", Some(&date)),
        ("X-Amz-Expires", Some(&expires)),
        ("X-Amz-Security-Token", session_token),
        ("X-Amz-SignedHeaders", Some("host")),
    ];
    let query: Vec<_> = query
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", percent_encoded(value))))
        .collect();
    // EFS expects no empty line after the headers, unlike the specification of Signature Version 4.
    format!("GET\n/\n{}\nhost:{}\nhost\n{}", query.join("&"), subject.file_system, sha256(""))
}

fn string_to_sign(request: &str, moment: Moment, region: &str) -> String {
    format!("{ALGORITHM}\n{}\n{}\n{}", moment.long(), scope(moment, region), sha256(request))
}

fn signed(text: &str, moment: Moment, secret: &str, region: &str) -> String {
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut key = sign(format!("AWS4{secret}").as_bytes(), &moment.day());
    for part in [region, SERVICE, "aws4_request"] {
        key = sign(key.as_ref(), part);
    }
    hex(sign(key.as_ref(), text).as_ref())
}

/// The signature in hexadecimal.
pub(super) fn signature(key_hash: &str, moment: Moment, credentials: &Credentials, subject: &Subject) -> String {
    let token = credentials.session_token.as_deref();
    let request = canonical_request(key_hash, moment, &credentials.access_key_id, token, subject);
    let text = string_to_sign(&request, moment, &subject.region);
    signed(&text, moment, &credentials.secret_access_key, &subject.region)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Noon of the first day of 2000, the date in efs-utils' own tests.
    fn noon() -> Moment {
        Moment::new(SystemTime::UNIX_EPOCH + Duration::from_secs(946_728_000)).unwrap()
    }

    fn subject() -> Subject {
        Subject::new("fs-deadbeef", "us-east-1").unwrap()
    }

    // What is expected here is what efs-utils' test_create_self_signed_cert.py expects.

    #[test]
    fn the_request_is_the_one_of_efs_utils() {
        let request =
            |token| canonical_request("fake_public_key_hash", noon(), "AKIAIOSFODNN7EXAMPLE", token, &subject());
        let start = "GET\n/\nAction=Connect&PublicKeyHash=fake_public_key_hash&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20000101%2Fus-east-1%2Felasticfilesystem%2Faws4_request\
            &X-Amz-Date=20000101T120000Z&X-Amz-Expires=86400";
        let end = "&X-Amz-SignedHeaders=host\nhost:fs-deadbeef\nhost\n\
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(request(None), format!("{start}{end}"));
        let token = "FAKEwJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";
        assert_eq!(request(Some(token)), format!("{start}&X-Amz-Security-Token={token}{end}"));
        assert!(request(Some("a+b/c==_-")).contains("&X-Amz-Security-Token=a%2Bb%2Fc%3D%3D_-&"));
    }

    #[test]
    fn the_string_to_sign_is_the_one_of_efs_utils() {
        assert_eq!(
            string_to_sign("canonical_request", noon(), "us-east-1"),
            "AWS4-HMAC-SHA256\n20000101T120000Z\n20000101/us-east-1/elasticfilesystem/aws4_request\n\
             572b1e335109068b81e4def81524c5fe5d0e385143b5656cbf2f7c88e5c1a51e"
        );
    }

    #[test]
    fn the_signature_is_the_one_of_efs_utils() {
        assert_eq!(
            signed("string_to_sign", noon(), "FAKE_AWS_SECRET_ACCESS_KEY", "us-east-1"),
            "6aa643803d4a1b07c5ac87bff96347ef28dab1cb5a5c5d63969c90ca11454c4a"
        );
    }

    #[test]
    fn a_moment_is_told_in_both_forms() {
        assert_eq!(noon().long(), "20000101T120000Z");
        assert_eq!(noon().short(), "000101120000Z");
        let at = |seconds| Moment::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(946_684_800).unwrap().short(), "000101000000Z");
        assert_eq!(at(2_524_607_999).unwrap().long(), "20491231T235959Z");
        assert!(at(946_684_799).is_none() && at(2_524_608_000).is_none() && at(u64::from(u32::MAX)).is_none());
        assert!(Moment::new(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).is_none());
    }

    proptest! {
        #[test]
        fn a_moment_is_a_whole_second_and_the_same(nanoseconds in 946_684_800_000_000_000..2_524_608_000_000_000_000_u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
            let moment = Moment::new(time).unwrap();
            let lost = time.duration_since(moment.system_time()).unwrap();
            prop_assert!(lost < Duration::from_secs(1));
        }

        #[test]
        fn what_is_encoded_is_unreserved_and_can_be_decoded(text in any::<String>()) {
            let encoded = percent_encoded(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            let mut bytes = encoded.bytes();
            let mut decoded = Vec::new();
            while let Some(byte) = bytes.next() {
                decoded.push(if byte == b'%' {
                    let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                } else {
                    byte
                });
            }
            prop_assert_eq!(decoded, text.into_bytes());
        }
    }
}
