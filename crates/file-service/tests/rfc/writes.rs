//! What a write asks for is done or refused.

use super::{common::Request, is_unchanged, one_file, raw, with};

#[test]
fn an_expectation_other_than_100_continue_is_refused() {
    let (world, server, before) = one_file();
    for expectations in [&["x"][..], &["100-continue, x"], &["100-continue", "x"], &["100-continue=1"]] {
        let lines: Vec<_> = expectations.iter().map(|value| ("expect", *value)).collect();
        for request in [Request::put("/files/f", "x"), Request::get("/files/f")] {
            assert_eq!(
                server.send(&with(request, &lines)).api_error(),
                "417 UnsupportedExpectation",
                "{expectations:?}"
            );
        }
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.send(&Request::put("/files/f", "x").header("expect", "100-Continue")).status, 204);
    // A list may have empty elements, and no others.
    for empty in ["", ",", " , "] {
        assert_eq!(server.send(&Request::put("/files/f", "x").header("expect", empty)).status, 204, "{empty:?}");
    }
    // Whoever is refused is not asked for the content first.
    let head = "PUT /files/.. HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    assert!(raw(&server, head.as_bytes()).starts_with("HTTP/1.1 400 "));
}

#[test]
fn what_a_write_cannot_honour_is_refused() {
    let (world, server, before) = one_file();
    let refusals: Vec<(&str, &str, &str)> = vec![
        ("content-range", "bytes 0-1/10", "400 BadHeader"),
        ("content-digest", "sha-256=:AA==:", "400 BadHeader"),
        ("repr-digest", "sha-256=:AA==:", "400 BadHeader"),
        ("digest", "sha-256=AA==", "400 BadHeader"),
        ("content-md5", "AA==", "400 BadHeader"),
        ("x-http-method-override", "PATCH", "400 BadHeader"),
        ("x-http-method", "PATCH", "400 BadHeader"),
        ("x-method-override", "PATCH", "400 BadHeader"),
        ("upload-offset", "5", "400 BadHeader"),
        ("upload-complete", "?0", "400 BadHeader"),
        ("upload-incomplete", "?1", "400 BadHeader"),
        ("x-update-range", "append", "400 BadHeader"),
        ("if", "(<a>)", "400 BadHeader"),
        ("overwrite", "F", "400 BadHeader"),
        ("idempotency-key", "\"a\"", "400 BadHeader"),
        ("x-amz-copy-source", "/a/b", "400 BadHeader"),
        ("x-amz-write-offset-bytes", "5", "400 BadHeader"),
        ("x-content-range", "bytes 0-1/10", "400 BadHeader"),
        ("x-file-offset", "5", "400 BadHeader"),
        ("upload-length", "5", "400 BadHeader"),
        ("tus-resumable", "1.0.0", "400 BadHeader"),
        ("x-amz-checksum-crc32", "AAAAAA==", "400 BadHeader"),
        ("x-amz-checksum-sha256", "AA==", "400 BadHeader"),
        ("x-amz-trailer", "x-amz-checksum-crc32", "400 BadHeader"),
        ("x-amz-sdk-checksum-algorithm", "CRC32", "400 BadHeader"),
        ("oc-chunked", "1", "400 BadHeader"),
        ("x-goog-hash", "crc32c=AAAAAA==", "400 BadHeader"),
        ("oc-checksum", "SHA1:00", "400 BadHeader"),
        ("x-checksum-sha1", "00", "400 BadHeader"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "400 BadHeader"),
        ("x-amz-content-sha256", "streaming-unsigned-payload-trailer", "400 BadHeader"),
        ("x-ms-blob-type", "AppendBlob", "400 BadHeader"),
        ("x-ms-blob-type", "PageBlob", "400 BadHeader"),
        ("content-encoding", "gzip", "415 UnsupportedCoding"),
        ("content-encoding", "identity, br", "415 UnsupportedCoding"),
        ("content-encoding", "aws-chunked", "415 UnsupportedCoding"),
        ("content-type", "multipart/form-data; boundary=x", "415 UnsupportedType"),
        ("content-type", "Multipart/ByteRanges;boundary=x", "415 UnsupportedType"),
        ("content-type", "multipart/related; boundary=x", "415 UnsupportedType"),
        ("content-type", "multipart/mixed", "415 UnsupportedType"),
    ];
    for (name, value, api_error) in refusals {
        for request in
            [Request::put("/files/f", "x"), Request::put("/files/f", "x").chunked(1), Request::append("/files/f", "x")]
        {
            let answer = server.send(&request.clone().header(name, value));
            assert_eq!(answer.api_error(), api_error, "{} {name}: {value}", request.method);
            let told = (api_error == "415 UnsupportedCoding").then_some("identity");
            assert_eq!(answer.header("accept-encoding"), told, "{name}: {value}");
        }
        if api_error.ends_with("BadHeader") {
            let delete = Request::new("DELETE", "/files/f").header(name, value);
            assert_eq!(server.send(&delete).api_error(), api_error, "DELETE {name}: {value}");
        }
    }
    for (name, value) in [
        ("content-digest", "sha-256=:AA==:"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("content-encoding", "gzip"),
        ("content-type", "multipart/mixed"),
        ("content-length", "1"),
        ("if-match", "\"a\""),
        ("if-none-match", "*"),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        for method in ["PUT /files/f", "POST /files/f?append", "DELETE /files/f"] {
            let content = if method.starts_with("DELETE") { "" } else { "1\r\nx\r\n" };
            let bytes = format!(
                "{method} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{content}0\r\n{name}: {value}\r\n\r\n"
            );
            let answer = server.client().send_bytes(bytes.as_bytes(), false).unwrap();
            assert_eq!(answer.api_error(), "400 BadHeader", "{method}, trailer {name}: {value}");
        }
    }
    assert_eq!(server.send(&Request::new("DELETE", "/files/f").body("x")).api_error(), "400 BadHeader");
    assert_eq!(server.send(&Request::new("DELETE", "/files/f").body("x").chunked(1)).api_error(), "400 BadHeader");
    assert!(is_unchanged(&world, &server, &before));
    // What describes a content is not kept, and changes none.
    for (name, value) in [
        ("content-encoding", "identity"),
        ("content-type", "text/plain"),
        ("content-language", "en"),
        ("content-location", "/x"),
        ("content-disposition", "attachment; filename=x"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        // RFC 9110, section 14.2: means nothing but to GET.
        ("range", "bytes=0-1"),
        ("if-range", "\"x\""),
    ] {
        assert_eq!(server.send(&Request::put("/files/f", "x").header(name, value)).status, 204, "{name}");
        assert_eq!(server.get("/files/f").body, b"x", "{name}");
    }
    // A content of no bytes is none, however it is framed.
    assert_eq!(server.send(&Request::new("DELETE", "/files/f").body("").chunked(1)).status, 204);
    assert_eq!(server.get("/files/f").status, 404);
}

#[test]
fn a_query_that_a_write_does_not_know_is_refused() {
    let (world, server, before) = one_file();
    let writes = [
        ("PUT", &["append", "", "x", "x=y", "append=1", "versionId=1"][..]),
        ("POST", &["", "x", "append=0", "append=false", "append&x", "x&append", "append&append", "Append", "append&"]),
        ("DELETE", &["append", "", "recursive=true", "versionId=1"]),
    ];
    for (method, queries) in writes {
        for query in queries {
            let request = Request::new(method, &format!("/files/f?{query}"));
            let request = if method == "DELETE" { request } else { request.body("x") };
            assert_eq!(server.send(&request).api_error(), "400 BadQuery", "{method} ?{query}");
        }
    }
    for query in ["x", "limit=1&limit=2", "limit=1&x", "From=1", "limit", "limit=+1", "limit=%31"] {
        assert_eq!(server.get(&format!("/list/?{query}")).api_error(), "400 BadQuery", "?{query}");
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.send(&Request::new("POST", "/files/f?append=").body("x")).status, 204);
    // What it makes has another address than the request.
    let made = server.send(&Request::append("/files/d/%5ea%20b", "x"));
    assert_eq!((made.status, made.header("location")), (201, Some("/files/d/%5Ea%20b")));
    assert_eq!(server.get("/files/d/%5Ea%20b").body, b"x");
    assert_eq!(server.put("/files/new", "x").header("location"), None);
    // A read does not depend on it: caches and browsers add what they like.
    assert_eq!(server.get("/files/f?v=1").body, b"0123456789x");
}

#[test]
fn a_write_without_a_length_is_refused() {
    let (world, server, before) = one_file();
    for version in ["1.0", "1.1"] {
        for target in ["PUT /files/f", "PUT /files/new", "POST /files/f?append"] {
            let bytes = format!("{target} HTTP/{version}\r\nhost: a\r\n\r\n");
            let said = raw(&server, bytes.as_bytes());
            assert!(
                said.contains(" 411 Length Required\r\n") && said.contains("\"code\":\"NoLength\""),
                "{bytes}{said}"
            );
        }
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.put("/files/f", "").status, 204);
    assert_eq!(server.get("/files/f").body, b"");
    assert_eq!(server.send(&Request::new("DELETE", "/files/f")).status, 204);
}
