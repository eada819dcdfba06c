//! What the header of a request must be before it is acted on (RFC 9110 and 9112), and what a write may not say.

use std::net::Ipv6Addr;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::Body as _;

use super::refusal::{Refusal, UNSUPPORTED_CODING};

/// Header fields that change what a write means. The service can honour none of them, and a write without them is
/// another write.
const NOT_ON_A_WRITE: [(&str, &str); 16] = [
    // RFC 9110, section 14.5.
    ("content-range", "a write is of the whole content"),
    // RFC 9530, and what was before it: a digest that nobody compares promises what nobody keeps.
    ("content-digest", "the content is not compared with a digest"),
    ("repr-digest", "the content is not compared with a digest"),
    ("digest", "the content is not compared with a digest"),
    ("content-md5", "the content is not compared with a digest"),
    // The method is the one of the request line.
    ("x-http-method-override", "the method is the one of the request line"),
    ("x-http-method", "the method is the one of the request line"),
    ("x-method-override", "the method is the one of the request line"),
    // Uploads in parts: tus, and the IETF's resumable uploads.
    ("upload-offset", "a write is of the whole content"),
    ("upload-complete", "a write is of the whole content"),
    ("upload-incomplete", "a write is of the whole content"),
    ("x-update-range", "a write is of the whole content"),
    // Conditions of WebDAV (RFC 4918, sections 10.4 and 10.6).
    ("if", "the conditions are those of RFC 9110"),
    ("overwrite", "the conditions are those of RFC 9110"),
    // An append that is sent again is done again.
    ("idempotency-key", "no key is remembered"),
    // S3's copy: its request has no content of its own.
    ("x-amz-copy-source", "nothing is copied"),
];

/// Media types that are a wrapping of contents, not a content: they would be stored with their boundaries.
const WRAPPINGS: [&str; 2] = ["multipart/form-data", "multipart/byteranges"];

/// Checks what concerns every request.
///
/// # Errors
/// The request is refused, and its connection ends.
pub(super) fn check_request<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    check_target(request)?;
    check_host(request.version(), headers)?;
    check_transfer_encoding(headers)?;
    check_expect(request.version(), headers)
}

/// Checks the form of the request target (RFC 9112, section 3.2).
fn check_target<B>(request: &Request<B>) -> Result<(), Refusal> {
    let (method, path) = (request.method(), request.uri().path());
    let is_of_method = match path {
        "*" => method == Method::OPTIONS,
        "" => method == Method::CONNECT,
        path => path.starts_with('/'),
    };
    match is_of_method {
        true => Ok(()),
        false => Err(Refusal::bad_request("BadPath", "the request target is neither a path nor an http address")),
    }
}

/// Checks that there is one Host, and that it is one (RFC 9112, section 3.2). HTTP/1.0 needs none.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let bad = |message| Err(Refusal::bad_request("BadHeader", message));
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => bad("the request has no Host"),
        (Some(_), Some(_)) => bad("the request has more than one Host"),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => bad("Host is not a host with or without a port"),
    }
}

/// uri-host [ ":" port ] (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
fn is_host(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let (is_name, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            (address.parse::<Ipv6Addr>().is_ok() || is_future_address(address), port)
        }
        None => {
            let (name, port) = value.split_at_checked(value.find(':').unwrap_or(value.len())).unwrap_or_default();
            (is_registered_name(name), port)
        }
    };
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    is_name && is_port
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// IPvFuture.
fn is_future_address(address: &str) -> bool {
    let parts = address.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(version, rest)| {
        let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_version && !rest.is_empty() && rest.bytes().all(|byte| byte == b':' || is_name_byte(byte))
    })
}

/// reg-name, which may be empty.
fn is_registered_name(name: &str) -> bool {
    let mut parts = name.split('%');
    let is_plain = |part: &str| part.bytes().all(is_name_byte);
    parts.next().is_some_and(is_plain)
        && parts.all(|part| {
            part.split_at_checked(2)
                .is_some_and(|(escape, rest)| escape.bytes().all(|b| b.is_ascii_hexdigit()) && is_plain(rest))
        })
}

/// The elements of a list, over all the lines of a header field (RFC 9110, section 5.6.1). A quoted comma cuts too,
/// which none of the lists here has.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Checks that the content comes as it is, or in chunks (RFC 9112, section 6.1). hyper looks at the last coding only,
/// and would hand the content out with the others still on it.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let chunks = elements(headers, &header::TRANSFER_ENCODING).filter(|coding| is_chunked(coding)).count();
    if chunks > 1 {
        return Err(Refusal::bad_request("BadFraming", "the content may be chunked once"));
    }
    match elements(headers, &header::TRANSFER_ENCODING).all(is_chunked) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            UNSUPPORTED_CODING,
            "chunked is the only transfer coding that is understood",
        )),
    }
}

/// Checks that nothing is expected but 100-continue (RFC 9110, section 10.1.1). HTTP/1.0 has no expectations.
fn check_expect(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let is_met = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    match version < Version::HTTP_11 || headers.get_all(header::EXPECT).iter().all(is_met) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::EXPECTATION_FAILED,
            "UnsupportedExpectation",
            "100-continue is the only expectation that is met",
        )),
    }
}

/// Checks that a write says nothing that the service would have to leave out.
///
/// # Errors
/// The write is refused; nothing has happened.
pub(super) fn check_write(headers: &HeaderMap) -> Result<(), Refusal> {
    if let Some((name, why)) = NOT_ON_A_WRITE.iter().find(|(name, _)| headers.contains_key(*name)) {
        return Err(Refusal::bad_request("BadHeader", &format!("a write takes no {name}: {why}")));
    }
    Ok(())
}

/// Checks the content that a write brings: its length, its coding, its type.
///
/// # Errors
/// As [`check_write`].
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::new(
            StatusCode::LENGTH_REQUIRED,
            "NoLength",
            "a write needs a Content-Length, also of 0, or Transfer-Encoding: chunked",
        ));
    }
    let unsupported = |code, message: &str| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, message));
    if !elements(headers, &header::CONTENT_ENCODING).all(|coding| coding.eq_ignore_ascii_case(b"identity")) {
        return unsupported(
            UNSUPPORTED_CODING,
            "a file is stored without its Content-Encoding, and would be read as it is coded",
        );
    }
    let is_wrapping = |value: &HeaderValue| {
        let kind = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        WRAPPINGS.iter().any(|wrapping| kind.eq_ignore_ascii_case(wrapping.as_bytes()))
    };
    match headers.get_all(header::CONTENT_TYPE).iter().any(is_wrapping) {
        true => unsupported("UnsupportedType", "the content is to be that of the file, without a multipart wrapping"),
        false => Ok(()),
    }
}

/// Checks that a DELETE brings no content: it has no meaning (RFC 9110, section 9.3.5), and whoever sends one means
/// something.
///
/// # Errors
/// As [`check_write`].
pub(super) fn check_no_content(body: &Body) -> Result<(), Refusal> {
    match body.is_end_stream() {
        true => Ok(()),
        false => Err(Refusal::bad_request("BadHeader", "DELETE takes no content")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for host in [
            "",
            "a",
            "a.example",
            "a.example:80",
            "a:",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:80",
            "[v1.a:b]",
            "a%20b",
            "a_b~!$&'()*+,;=",
            ":80",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b", "a/b", "a b/c", "a@b", "a:b", "a:80:80", "[::1", "::1", "[::1]x", "[a]", "[]", "a%2", "a%zz", "a?b",
            "a#b", "a\\b", "é", "[v.a]", "[v1.]", "<a>", "\"a\"",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
        assert!(!is_host(b"a\xff"));
    }

    #[test]
    fn a_list_is_over_all_lines_and_has_no_empty_elements() {
        let mut headers = HeaderMap::new();
        for value in [" a ,, b", "", "c,"] {
            headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(value));
        }
        let found: Vec<_> = elements(&headers, &header::TRANSFER_ENCODING).collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
    }
}
