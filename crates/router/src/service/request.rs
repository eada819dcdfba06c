//! What a request says, out of its path and headers.

use std::{borrow::Cow, time::SystemTime};

use http::{HeaderMap, HeaderName, Uri, header};
use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::{
    path::{DirectoryPath, FilePath},
    target::{Conditions, Part, Tags, Want},
};

/// More tags than this in one header are nobody's honest question.
const MOST_TAGS: usize = 64;

/// The bytes of what follows `prefix` in the path, decoded once.
fn decoded<'a>(uri: &'a Uri, prefix: &str) -> Result<Cow<'a, [u8]>, Refusal> {
    let encoded = uri.path().strip_prefix(prefix).unwrap_or_default();
    let mut escapes = encoded.split('%').skip(1).map(str::as_bytes);
    let whole = |escape: &[u8]| escape.iter().take(2).filter(|digit| digit.is_ascii_hexdigit()).count() == 2;
    if !escapes.all(whole) {
        return Err(Refusal::bad_request(
            "BadPath",
            "the path has a % without two hexadecimal digits; write it as %25",
        ));
    }
    Ok(percent_decode_str(encoded).into())
}

pub(super) fn file_path(uri: &Uri, prefix: &str) -> Result<FilePath, Refusal> {
    FilePath::new(decoded(uri, prefix)?).map_err(|why| Refusal::from(crate::Error::from(why)))
}

pub(super) fn directory_path(uri: &Uri, prefix: &str) -> Result<DirectoryPath, Refusal> {
    DirectoryPath::new(decoded(uri, prefix)?).map_err(|why| Refusal::from(crate::Error::from(why)))
}

/// The value of a key of the query, as it stands; empty when the key stands alone.
pub(super) fn query<'a>(uri: &'a Uri, key: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find_map(|(name, value)| (name == key).then_some(value))
}

/// What If-Match and If-None-Match say (RFC 9110, section 13.1). A weak tag says that two contents are as good as
/// equal, which If-Match does not take for equal.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Conditions, Refusal> {
    Ok(Conditions {
        if_match: tags(headers, &header::IF_MATCH, false)?,
        if_none_match: tags(headers, &header::IF_NONE_MATCH, true)?,
        unmodified_since: date(headers, &header::IF_UNMODIFIED_SINCE),
        modified_since: date(headers, &header::IF_MODIFIED_SINCE),
    })
}

/// A date that is none says nothing (RFC 9110, section 13.1.3).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

fn tags(headers: &HeaderMap, name: &HeaderName, weak: bool) -> Result<Option<Tags>, Refusal> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let bad = || Refusal::bad_request("BadHeader", &format!("{name} is neither * nor a list of tags in quotes"));
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let mut rest = value.to_str().map_err(|_| bad())?.trim();
        if rest == "*" {
            return Ok(Some(Tags::Any));
        }
        while !rest.is_empty() {
            let (tag, after) = one_tag(rest).ok_or_else(bad)?;
            if weak || !rest.starts_with("W/") {
                tags.push(tag.to_owned());
            }
            if tags.len() > MOST_TAGS {
                return Err(bad());
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return Err(bad()),
            };
        }
    }
    Ok(Some(Tags::These(tags)))
}

/// `"tag"` or `W/"tag"`, and what follows.
fn one_tag(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?.split_once('"')
}

/// What a GET or HEAD asks for.
pub(super) fn want(headers: &HeaderMap, only_meta: bool) -> Result<Want, Refusal> {
    if !headers.keys().any(is_about_content) {
        return Ok(Want { only_meta, ..Want::default() });
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // If-Range takes a strong tag; of a date, or a weak tag, nothing is known to be the same.
    let part_if = text(header::IF_RANGE).map(|tag| match tag.starts_with("W/") {
        true => String::new(),
        false => one_tag(tag).map_or_else(String::new, |(tag, _)| tag.to_owned()),
    });
    Ok(Want {
        only_meta,
        part: text(header::RANGE).filter(|_| !only_meta).and_then(part),
        part_if,
        conditions: conditions(headers)?,
    })
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

/// One range of bytes (RFC 9110, section 14). Of several, or of what is no range, nothing: the whole is a good
/// answer to that.
fn part(text: &str) -> Option<Part> {
    let range = text.strip_prefix("bytes=")?.trim();
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
        // Larger than any file.
        true => Some(digits.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    match range.split_once('-')? {
        ("", last) => number(last).map(Part::Last),
        (first, "") => number(first).map(|first| Part::From(first, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Part::From(first, Some(last)))
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
            ("bytes=0-0", Some(Part::From(0, Some(0)))),
            ("bytes=5-", Some(Part::From(5, None))),
            ("bytes=-5", Some(Part::Last(5))),
            ("bytes=0-99999999999999999999999", Some(Part::From(0, Some(u64::MAX)))),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
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
        let these = |tags: &[&str]| Some(Tags::These(tags.iter().map(|tag| (*tag).to_owned()).collect()));
        for (values, weak, expected) in [
            (&["*"][..], true, Some(Tags::Any)),
            (&[r#""a-b""#], true, these(&["a-b"])),
            (&[r#""a", W/"b" ,"c,d""#], true, these(&["a", "b", "c,d"])),
            (&[r#""a", W/"b" ,"c,d""#], false, these(&["a", "c,d"])),
            (&[r#""a""#, r#""b""#], true, these(&["a", "b"])),
            (&[""], true, these(&[])),
        ] {
            let found = tags(&headers(header::IF_MATCH, values), &header::IF_MATCH, weak);
            assert_eq!(found.ok().flatten(), expected, "{values:?}");
        }
        for bad in ["a", "\"a", "\"a\" \"b\"", "\"a\";"] {
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
