//! The parameters of a request, from its path and headers.

use std::{borrow::Cow, str::FromStr, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use percent_encoding::percent_decode_str;

use super::api_error::ApiError;
use files::transport::{ByteRange, ETags, Preconditions, ReadOptions};
use router::path::{DirectoryPath, FilePath};

/// Maximum number of entity tags in one header field.
const MAX_ETAGS: usize = 64;

/// The bytes after `prefix` in the path, percent-decoded once.
fn decoded<'a>(uri: &'a Uri, prefix: &str) -> Result<Cow<'a, [u8]>, ApiError> {
    let encoded = uri.path().strip_prefix(prefix).unwrap_or_default();
    let mut escapes = encoded.split('%').skip(1).map(str::as_bytes);
    let whole = |escape: &[u8]| escape.iter().take(2).filter(|digit| digit.is_ascii_hexdigit()).count() == 2;
    if !escapes.all(whole) {
        return Err(ApiError::bad_request(
            "BadPath",
            "the path has a % without two hexadecimal digits; write it as %25",
        ));
    }
    Ok(percent_decode_str(encoded).into())
}

pub(super) fn file_path(uri: &Uri, prefix: &str) -> Result<FilePath, ApiError> {
    FilePath::new(decoded(uri, prefix)?).map_err(|err| ApiError::from(files::Error::from(err)))
}

pub(super) fn directory_path(uri: &Uri, prefix: &str) -> Result<DirectoryPath, ApiError> {
    DirectoryPath::new(decoded(uri, prefix)?).map_err(|err| ApiError::from(files::Error::from(err)))
}

/// The raw value of a query key; empty when the key has no value.
pub(super) fn query<'a>(uri: &'a Uri, key: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find_map(|(name, value)| (name == key).then_some(value))
}

/// Checks that the query has only these keys, each at most once. Without keys there may be no query, not even an empty one,
/// because that would be the end of a name with a raw `?`.
///
/// # Errors
/// The query has another key, or one twice.
pub(super) fn only_query(uri: &Uri, keys: &[&str]) -> Result<(), ApiError> {
    let Some(query) = uri.query() else { return Ok(()) };
    let mut left = keys.to_vec();
    for pair in query.split('&').filter(|pair| !pair.is_empty() || keys.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        let Some(found) = left.iter().position(|key| *key == name) else {
            return Err(ApiError::bad_request(
                "BadQuery",
                "the query has what means nothing here, or something twice; write a ? of a name as %3F",
            ));
        };
        left.swap_remove(found);
    }
    Ok(())
}

/// A number of digits only: `parse` accepts a `+` too.
pub(super) fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The value of a header field with exactly one line.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

/// The token of `Authorization: Bearer` (RFC 9110, section 11.4).
pub(super) fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let credentials = single(headers, &header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = credentials.split_at_checked(credentials.iter().position(|byte| *byte == b' ')?)?;
    scheme.eq_ignore_ascii_case(b"Bearer").then(|| rest.trim_ascii_start())
}

/// If-Match and If-None-Match (RFC 9110, section 13.1). If-Match uses the strong comparison, which a weak tag never passes.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Preconditions, ApiError> {
    Ok(Preconditions {
        if_match: tags(headers, &header::IF_MATCH, false)?,
        if_none_match: tags(headers, &header::IF_NONE_MATCH, true)?,
        unmodified_since: date(headers, &header::IF_UNMODIFIED_SINCE),
        modified_since: date(headers, &header::IF_MODIFIED_SINCE),
    })
}

/// An invalid date, or several, is ignored (RFC 9110, sections 13.1.3 and 13.1.4).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(single(headers, name)?.to_str().ok()?).ok()
}

fn tags(headers: &HeaderMap, name: &HeaderName, weak: bool) -> Result<Option<ETags>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    if single(headers, name).is_some_and(|value| value.as_bytes() == b"*") {
        return Ok(Some(ETags::Any));
    }
    let bad = || ApiError::bad_request("BadHeader", &format!("{name} is neither * nor a list of tags in quotes"));
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let mut rest = value.as_bytes().trim_ascii();
        while !rest.is_empty() {
            if let Some(next) = rest.strip_prefix(b",") {
                // A list may have empty elements (RFC 9110, section 5.6.1).
                rest = next.trim_ascii_start();
                continue;
            }
            let (tag, after) = one_tag(rest).ok_or_else(bad)?;
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return Err(bad());
            }
            if weak || !tag.is_weak {
                tags.push(tag.opaque.to_owned());
            }
            if tags.len() > MAX_ETAGS {
                return Err(bad());
            }
        }
    }
    Ok(Some(ETags::List(tags)))
}

/// An entity tag (RFC 9110, section 8.8.3).
struct EntityTag<'a> {
    is_weak: bool,
    /// The text between the quotes; empty if it is not UTF-8 and so not a tag of this service.
    opaque: &'a str,
}

/// Parses `"tag"` or `W/"tag"`; returns the rest.
fn one_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (is_weak, quoted) = text.strip_prefix(b"W/").map_or((false, text), |quoted| (true, quoted));
    let opaque = quoted.strip_prefix(b"\"")?;
    let (opaque, after) = opaque.split_at_checked(opaque.iter().position(|byte| *byte == b'"')?)?;
    let is_tag = opaque.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..));
    let opaque = std::str::from_utf8(opaque).unwrap_or_default();
    is_tag.then(|| (EntityTag { is_weak, opaque }, after.get(1..).unwrap_or_default()))
}

/// The options of a GET or HEAD.
pub(super) fn want(headers: &HeaderMap, head: bool) -> Result<ReadOptions, ApiError> {
    if !headers.keys().any(is_about_content) {
        return Ok(ReadOptions { head, ..ReadOptions::default() });
    }
    // If-Range accepts one strong tag. A date or a weak tag never matches, so the whole content is sent.
    let if_range = headers.contains_key(header::IF_RANGE).then(|| {
        let tag = single(headers, &header::IF_RANGE).and_then(|value| one_tag(value.as_bytes()));
        tag.filter(|(tag, after)| !tag.is_weak && after.is_empty()).map_or("", |(tag, _)| tag.opaque).to_owned()
    });
    let range = single(headers, &header::RANGE).and_then(|value| value.to_str().ok());
    Ok(ReadOptions { head, part: range.filter(|_| !head).and_then(part), if_range, conditions: conditions(headers)? })
}

fn is_about_content(name: &HeaderName) -> bool {
    [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ]
    .contains(name)
}

/// One byte range (RFC 9110, section 14). Several ranges, or an invalid one, are ignored: the whole content is a valid
/// response.
fn part(text: &str) -> Option<ByteRange> {
    let (unit, ranges) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
    let range = ranges.next().filter(|_| ranges.next().is_none())?;
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
        // Larger than any file.
        true => Some(digits.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    match range.split_once('-')? {
        ("", last) => number(last).map(ByteRange::Last),
        (first, "") => number(first).map(|first| ByteRange::From(first, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::From(first, Some(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_or_ignored() {
        for (text, expected) in [
            ("bytes=0-0", Some(ByteRange::From(0, Some(0)))),
            ("bytes=5-", Some(ByteRange::From(5, None))),
            ("bytes=-5", Some(ByteRange::Last(5))),
            ("bytes=0-99999999999999999999999", Some(ByteRange::From(0, Some(u64::MAX)))),
            ("bytes=5-4", None),
            ("Bytes=5-", Some(ByteRange::From(5, None))),
            ("bytes=,0-0 ,", Some(ByteRange::From(0, Some(0)))),
            ("bytes=0-1,3-4", None),
            ("bytes=0-1 2", None),
            ("bytes =0-1", None),
            ("bytes=0-1=", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
            ("lines=1-2", None),
            ("bytes", None),
        ] {
            assert_eq!(part(text), expected, "{text}");
        }
    }

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn tags_are_read_as_http_has_them() {
        let these = |tags: &[&str]| Some(ETags::List(tags.iter().map(|tag| (*tag).to_owned()).collect()));
        for (values, weak, expected) in [
            (&["*"][..], true, Some(ETags::Any)),
            (&[r#""a-b""#], true, these(&["a-b"])),
            (&[r#""a", W/"b" ,"c,d""#], true, these(&["a", "b", "c,d"])),
            (&[r#""a", W/"b" ,"c,d""#], false, these(&["a", "c,d"])),
            (&[r#""a""#, r#""b""#], true, these(&["a", "b"])),
            (&[""], true, these(&[])),
            (&[r#", "a" ,, "b","#], true, these(&["a", "b"])),
            (&["\"\u{e9}\", \"a\""], true, these(&["\u{e9}", "a"])),
        ] {
            let found = tags(&headers(header::IF_MATCH, values), &header::IF_MATCH, weak);
            assert_eq!(found.ok().flatten(), expected, "{values:?}");
        }
        for bad in ["a", "\"a", "\"a\" \"b\"", "\"a\";", "*, \"a\"", "\"a\", *", "\"a b\"", "w/\"a\"", "W/ \"a\""] {
            assert!(tags(&headers(header::IF_MATCH, &[bad]), &header::IF_MATCH, true).is_err(), "{bad}");
        }
        let many = r#""a","#.repeat(65);
        assert!(tags(&headers(header::IF_MATCH, &[&many]), &header::IF_MATCH, true).is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_header_holds_is_read_or_refused(text in "[ -~]{0,60}", weak: bool) {
            let _ = tags(&headers(header::IF_MATCH, &[&text]), &header::IF_MATCH, weak);
            let _ = part(&text);
            let _ = part(&format!("bytes={text}"));
        }

        #[test]
        fn every_name_comes_back_from_its_escapes(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let escaped: String = name.iter().map(|byte| format!("%{byte:02X}")).collect();
            let uri = format!("/files/{escaped}").parse().unwrap();
            prop_assert_eq!(decoded(&uri, "/files/").unwrap().into_owned(), name);
        }
    }

    #[test]
    fn paths_are_decoded_once() {
        let of = |text: &'static str| decoded(&Uri::from_static(text), "/files/").map(Cow::into_owned).ok();
        assert_eq!(of("/files/a%20b%2Fc").unwrap(), b"a b/c");
        assert_eq!(of("/files/%252e%252e").unwrap(), b"%2e%2e");
        assert_eq!(of("/files/%ff").unwrap(), b"\xff");
        for bad in ["/files/%", "/files/%2", "/files/%zz", "/files/a%2gb"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
