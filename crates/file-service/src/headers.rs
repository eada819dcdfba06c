//! Checks of request headers before any action (RFC 9110 and 9112), and header fields that a write must not have.

use std::net::Ipv6Addr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header, uri::Scheme};

use super::api_error::{ApiError, UNSUPPORTED_CODING};

/// Header fields that change the meaning of a write. The service supports none of them, and ignoring one would be a
/// different write.
const NOT_ON_A_WRITE: [(&str, &str); 26] = [
    // RFC 9110, section 14.5, and the fields of products that mean the same.
    ("content-range", WHOLE),
    ("x-content-range", WHOLE),
    ("x-file-offset", WHOLE),
    ("x-amz-write-offset-bytes", WHOLE),
    // RFC 9530 and its predecessors: the service does not compare digests, so it must not accept one.
    ("content-digest", NO_DIGEST),
    ("repr-digest", NO_DIGEST),
    ("digest", NO_DIGEST),
    ("content-md5", NO_DIGEST),
    // S3 names its trailing checksum in this field; Google Cloud Storage and ownCloud have one each.
    ("x-amz-trailer", NO_DIGEST),
    ("x-amz-sdk-checksum-algorithm", NO_DIGEST),
    ("x-goog-hash", NO_DIGEST),
    ("oc-checksum", NO_DIGEST),
    // The service uses the method of the request line only.
    ("x-http-method-override", "the method is the one of the request line"),
    ("x-http-method", "the method is the one of the request line"),
    ("x-method-override", "the method is the one of the request line"),
    // Uploads in parts: tus, and the IETF's resumable uploads.
    ("tus-resumable", WHOLE),
    ("upload-length", WHOLE),
    ("upload-offset", WHOLE),
    ("upload-complete", WHOLE),
    ("upload-incomplete", WHOLE),
    ("x-update-range", WHOLE),
    // ownCloud's chunks.
    ("oc-chunked", WHOLE),
    // Conditions of WebDAV (RFC 4918, sections 10.4 and 10.6).
    ("if", "the conditions are those of RFC 9110"),
    ("overwrite", "the conditions are those of RFC 9110"),
    // A repeated append appends again.
    ("idempotency-key", "no key is remembered"),
    // S3's copy: the request has no content.
    ("x-amz-copy-source", "nothing is copied"),
];

const WHOLE: &str = "a write is of the whole content";
const NO_DIGEST: &str = "the content is not compared with a digest";

/// Prefixes of checksum fields, one field per algorithm.
const CHECKSUM_PREFIXES: [&str; 2] = ["x-amz-checksum-", "x-checksum-"];

/// Header fields that are valid in the header section only (RFC 9110, section 6.5.1). In a trailer they arrive too late.
const NOT_IN_A_TRAILER: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
];

/// Checks that apply to every request.
///
/// # Errors
/// The request is refused and the connection closes.
pub(super) fn check_request<B>(request: &Request<B>) -> Result<(), ApiError> {
    let headers = request.headers();
    check_target(request)?;
    check_host(request.version(), headers)?;
    check_transfer_encoding(headers)?;
    check_expect(request.version(), headers)
}

/// Checks the form of the request target (RFC 9112, section 3.2).
fn check_target<B>(request: &Request<B>) -> Result<(), ApiError> {
    let (method, uri) = (request.method(), request.uri());
    let is_of_method = match uri.path() {
        // This service is not a proxy.
        _ if method == Method::CONNECT => false,
        "*" => method == Method::OPTIONS,
        path => path.starts_with('/'),
    };
    let is_http = uri.scheme().is_none_or(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
    // RFC 9110, section 4.2.4: userinfo makes one host look like another.
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match is_of_method && is_http && !has_user {
        true => Ok(()),
        false => Err(ApiError::bad_request("BadPath", "the request target is neither a path nor an http address")),
    }
}

/// Checks for exactly one valid Host (RFC 9112, section 3.2). HTTP/1.0 needs none.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let bad = |message| Err(ApiError::bad_request("BadHeader", message));
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

/// The list elements over all lines of a header field (RFC 9110, section 5.6.1). A quoted comma splits too; none of these
/// lists has one.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Checks that the transfer coding is absent or `chunked` (RFC 9112, section 6.1). hyper looks at the last coding only and
/// would return content with the other codings still applied.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let chunks = elements(headers, &header::TRANSFER_ENCODING).filter(|coding| is_chunked(coding)).count();
    if chunks > 1 {
        return Err(ApiError::bad_request("BadFraming", "the content may be chunked once"));
    }
    match elements(headers, &header::TRANSFER_ENCODING).all(is_chunked) {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            UNSUPPORTED_CODING,
            "chunked is the only transfer coding that is understood",
        )),
    }
}

/// Checks that Expect has only 100-continue (RFC 9110, section 10.1.1). HTTP/1.0 has no expectations.
fn check_expect(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    // hyper sends 100 only if this is the whole value. A list may have empty elements (section 5.6.1).
    let is_empty = |value: &[u8]| value.split(|byte| *byte == b',').all(|element| element.trim_ascii().is_empty());
    let is_met =
        |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue") || is_empty(value.as_bytes());
    match version < Version::HTTP_11 || headers.get_all(header::EXPECT).iter().all(is_met) {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::EXPECTATION_FAILED,
            "UnsupportedExpectation",
            "100-continue is the only expectation that is met",
        )),
    }
}

/// Checks that a write has no header field that the service would have to ignore.
///
/// # Errors
/// The write is refused. Nothing was changed.
pub(super) fn check_write(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused =
        |name: &str, err: &str| Err(ApiError::bad_request("BadHeader", &format!("a write takes no {name}: {err}")));
    if let Some((name, err)) = NOT_ON_A_WRITE.iter().find(|(name, _)| headers.contains_key(*name)) {
        return refused(name, err);
    }
    let is_checksum = |name: &&HeaderName| CHECKSUM_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    if let Some(name) = headers.keys().find(is_checksum) {
        return refused(name.as_str(), NO_DIGEST);
    }
    let has = |name: &str, is_it: fn(&[u8]) -> bool| headers.get_all(name).iter().any(|value| is_it(value.as_bytes()));
    if has("x-amz-content-sha256", |value| starts_with(value, b"STREAMING-")) {
        return refused(
            "x-amz-content-sha256: STREAMING-",
            "the content is to be that of the file, without signed chunks",
        );
    }
    if has("x-ms-blob-type", |value| !value.eq_ignore_ascii_case(b"BlockBlob")) {
        return refused("x-ms-blob-type but BlockBlob", WHOLE);
    }
    Ok(())
}

/// Whether the value starts with this, ignoring case.
fn starts_with(value: &[u8], prefix: &[u8]) -> bool {
    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The same check for the trailers of a write.
///
/// # Errors
/// As [`check_write`].
pub(super) fn check_trailers(trailers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(name) = NOT_IN_A_TRAILER.iter().find(|name| trailers.contains_key(*name)) {
        return Err(ApiError::bad_request("BadHeader", &format!("{name} comes before the content, or not at all")));
    }
    check_write(trailers)
}

/// Checks length, coding and type of the content of a write.
///
/// # Errors
/// As [`check_write`].
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ApiError::new(
            StatusCode::LENGTH_REQUIRED,
            "NoLength",
            "a write needs a Content-Length, also of 0, or Transfer-Encoding: chunked",
        ));
    }
    let unsupported = |code, message: &str| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, message));
    if !elements(headers, &header::CONTENT_ENCODING).all(|coding| coding.eq_ignore_ascii_case(b"identity")) {
        return unsupported(
            UNSUPPORTED_CODING,
            "a file is stored without its Content-Encoding, and would be read as it is coded",
        );
    }
    // Multipart types wrap content, which would be stored with its boundaries (RFC 2046, section 5.1).
    let is_wrapping = |value: &HeaderValue| starts_with(value.as_bytes(), b"multipart/");
    match headers.get_all(header::CONTENT_TYPE).iter().any(is_wrapping) {
        true => unsupported("UnsupportedType", "the content is to be that of the file, without a multipart wrapping"),
        false => Ok(()),
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
