//! The description of the HTTP API (OpenAPI 3.1) at `/openapi.json`, made from the types of the answers and one table of
//! operations. Tests compare the table with the routes.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use domain::codes::{CodeKind, Entry, of_kind};
use http::{HeaderValue, StatusCode, header};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{api_error::ErrorBody, link::ListPage, page::Event, report::TargetsReport, routes::RouteReport};

/// What an answer has as its content.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// The bytes of a file.
    Bytes,
    Text(&'static str),
    Json(fn(&mut SchemaGenerator) -> Value),
}

struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Names in `components/parameters`.
    parameters: &'static [&'static str],
    content: Option<&'static str>,
    answers: &'static [(u16, &'static str, Body)],
    /// Refusals besides those of every operation.
    errors: &'static [u16],
    access: Access,
}

/// What opens an operation of a service with `AUTH_TOKEN`.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Token,
    /// The token or the session of a browser.
    Page,
    Open,
}

/// Components of 1 to 255 characters, of which none is `.` or `..`, begins with `.efs-router.` or has a NUL. The limits are in
/// bytes, which a pattern cannot say.
const PATH_PATTERN: &str =
    r"^(?!\.{1,2}(/|$)|\.efs-router\.)[^/\x00]{1,255}(/(?!\.{1,2}(/|$)|\.efs-router\.)[^/\x00]{1,255}){0,254}$";

const DEFAULTS: Operation = Operation {
    method: "get",
    path: "",
    summary: "",
    parameters: &[],
    content: None,
    answers: &[],
    errors: &[],
    access: Access::Token,
};

/// Refusals of every operation: its head, its framing, too many connections.
const COMMON_ERRORS: &[u16] = &[400, 414, 417, 431, 501, 503];
/// Of these some come from the parser, and have no content.
const STATUSES_OF_THE_PARSER: &[u16] = &[414, 431];
const FILE_ERRORS: &[u16] = &[403, 404, 409, 502, 504, 507];
const READ_ERRORS: &[u16] = &[403, 404, 409, 412, 502, 504, 507];
const WRITE_ERRORS: &[u16] = &[403, 404, 408, 409, 411, 412, 413, 415, 502, 504, 507];
const CONDITION_PARAMETERS: &[&str] =
    &["path", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];
const READ_PARAMETERS: &[&str] =
    &["path", "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];

const TARGETS: Body = Body::Json(schema::<TargetsReport>);
const READ_ANSWERS: &[(u16, &str, Body)] = &[
    (200, "The content", Body::Bytes),
    (206, "The range", Body::Bytes),
    (304, "Not modified", Body::None),
    (416, "The range is outside of the content", Body::None),
];
const HEAD_ANSWERS: &[(u16, &str, Body)] = &[
    (200, "The fields of the content", Body::None),
    (206, "The fields of the range", Body::None),
    (304, "Not modified", Body::None),
    (416, "The range is outside of the content", Body::None),
];

const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/files/{path}",
        summary: "Reads a file",
        parameters: READ_PARAMETERS,
        answers: READ_ANSWERS,
        errors: READ_ERRORS,
        ..DEFAULTS
    },
    Operation {
        method: "head",
        path: "/files/{path}",
        summary: "Reads the fields of a file",
        parameters: READ_PARAMETERS,
        answers: HEAD_ANSWERS,
        errors: READ_ERRORS,
        ..DEFAULTS
    },
    Operation {
        method: "put",
        path: "/files/{path}",
        summary: "Replaces a file atomically, and creates the directories above it",
        parameters: CONDITION_PARAMETERS,
        content: Some("application/octet-stream"),
        answers: &[(201, "The file is new", Body::None), (204, "The file is replaced", Body::None)],
        errors: WRITE_ERRORS,
        ..DEFAULTS
    },
    Operation {
        method: "post",
        path: "/files/{path}",
        summary: "Appends to a file",
        parameters: &["path", "append", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"],
        content: Some("application/octet-stream"),
        answers: &[(201, "The file is new", Body::None), (204, "The file is longer", Body::None)],
        errors: WRITE_ERRORS,
        ..DEFAULTS
    },
    Operation {
        method: "delete",
        path: "/files/{path}",
        summary: "Deletes a file",
        parameters: CONDITION_PARAMETERS,
        answers: &[(204, "The file is deleted", Body::None)],
        errors: WRITE_ERRORS,
        ..DEFAULTS
    },
    Operation {
        path: "/list/{directory}",
        summary: "Lists a directory, in no order",
        parameters: &["directory", "limit", "from"],
        answers: &[(200, "A page of entries", Body::Json(schema::<ListPage>))],
        errors: FILE_ERRORS,
        ..DEFAULTS
    },
    Operation {
        path: "/list",
        summary: "Lists the root",
        parameters: &["limit", "from"],
        answers: &[(200, "A page of entries", Body::Json(schema::<ListPage>))],
        errors: FILE_ERRORS,
        ..DEFAULTS
    },
    Operation {
        path: "/route/{path}",
        summary: "Says which mount target a path belongs to; touches no file",
        parameters: &["path"],
        answers: &[(200, "The route", Body::Json(schema::<RouteReport>))],
        access: Access::Page,
        ..DEFAULTS
    },
    Operation {
        path: "/targets",
        summary: "Health, shares and latencies of every mount target",
        answers: &[(200, "The mount targets", TARGETS)],
        access: Access::Page,
        ..DEFAULTS
    },
    Operation {
        path: "/metrics",
        summary: "The same for Prometheus",
        answers: &[(
            200,
            "Metrics as OpenMetrics",
            Body::Text("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        )],
        ..DEFAULTS
    },
    Operation {
        path: "/events",
        summary: "The state of this task once a second, as server-sent events; `data` is the schema Event",
        answers: &[(200, "A stream that ends with the service", Body::Text("text/event-stream"))],
        access: Access::Page,
        ..DEFAULTS
    },
    Operation {
        path: "/",
        summary: "The page for people; without the token, a form for it",
        answers: &[
            (200, "The page", Body::Text("text/html; charset=utf-8")),
            (401, "The form", Body::Text("text/html; charset=utf-8")),
        ],
        access: Access::Page,
        ..DEFAULTS
    },
    Operation {
        method: "post",
        path: "/session",
        summary: "Signs a browser in: exchanges the token for a cookie of 12 hours, which opens the page",
        content: Some("application/x-www-form-urlencoded"),
        answers: &[
            (303, "To the page, with the cookie", Body::None),
            (401, "The form again", Body::Text("text/html; charset=utf-8")),
        ],
        errors: &[408, 411, 413, 415],
        access: Access::Open,
        ..DEFAULTS
    },
    Operation {
        method: "post",
        path: "/session/end",
        summary: "Signs a browser out",
        answers: &[(303, "To the form, without the cookie", Body::None)],
        access: Access::Open,
        ..DEFAULTS
    },
    Operation {
        path: "/openapi.json",
        summary: "This document",
        answers: &[(200, "OpenAPI 3.1", Body::Json(|_| json!({ "type": "object" })))],
        access: Access::Page,
        ..DEFAULTS
    },
    Operation {
        path: "/healthz",
        summary: "The process is alive",
        answers: &[(200, "It is alive", Body::Text("text/plain; charset=utf-8"))],
        access: Access::Open,
        ..DEFAULTS
    },
    Operation {
        path: "/readyz",
        summary: "A mount target works and the service is not ending",
        answers: &[
            (200, "It is ready", Body::Text("text/plain; charset=utf-8")),
            (503, "Not ready", Body::Text("text/plain; charset=utf-8")),
        ],
        access: Access::Open,
        ..DEFAULTS
    },
];

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// The document.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let error = schema::<ErrorBody>(&mut generator);
    schema::<Event>(&mut generator);
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let described = operation.described(&mut generator, &error);
        let of_path = paths.entry(operation.path).or_insert_with(|| json!({}));
        of_path[operation.method] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "File service",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Files of one Amazon EFS file system, each through the mount target that the hash of its path \
                            selects. A service without AUTH_TOKEN takes requests without a token.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "parameters": parameters(),
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": "efs-session",
                    "description": "For the page only; `__Host-efs-session` over TLS." },
            },
        },
    })
}

impl Operation {
    fn described(&self, generator: &mut SchemaGenerator, error: &Value) -> Value {
        let mut answers = Map::new();
        for (status, description, body) in self.answers {
            let content = match body {
                Body::None => None,
                Body::Bytes => Some(("application/octet-stream", json!({}))),
                Body::Text(kind) => Some((*kind, json!({ "schema": { "type": "string" } }))),
                Body::Json(schema) => Some(("application/json", json!({ "schema": schema(generator) }))),
            };
            let mut answer = json!({ "description": description });
            if let Some((kind, content)) = content {
                answer["content"] = json!({ kind: content });
            }
            answers.insert(status.to_string(), answer);
        }
        let token: &[u16] = if self.access == Access::Open { &[] } else { &[401] };
        for status in [COMMON_ERRORS, token, self.errors].concat() {
            let answer = answers.entry(status.to_string()).or_insert_with(|| json!({ "description": reason(status) }));
            // An answer to HEAD has no content.
            if self.method != "head" && !STATUSES_OF_THE_PARSER.contains(&status) {
                answer["content"]["application/json"] = json!({ "schema": error });
            }
        }
        let refer = |name: &&str| json!({ "$ref": format!("#/components/parameters/{name}") });
        let mut described = json!({ "summary": self.summary, "responses": answers });
        if !self.parameters.is_empty() {
            described["parameters"] = self.parameters.iter().map(refer).collect();
        }
        if let Some(kind) = self.content {
            let schema = match kind {
                "application/x-www-form-urlencoded" => json!({ "type": "object", "required": ["token"],
                    "properties": { "token": { "type": "string" } } }),
                _ => json!({}),
            };
            described["requestBody"] = json!({ "required": true, "content": { kind: { "schema": schema } } });
        }
        match self.access {
            Access::Token => {}
            Access::Page => described["security"] = json!([{ "token": [] }, { "session": [] }]),
            Access::Open => described["security"] = json!([]),
        }
        described
    }
}

/// What a status says, and its codes.
fn reason(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let has_status = |entry: &&Entry| {
        entry.meaning.split_once(':').is_some_and(|(statuses, _)| statuses.contains(&status.to_string()))
    };
    let codes: Vec<_> =
        of_kind(CodeKind::HttpError).filter(has_status).map(|entry| format!("`{}`", entry.code)).collect();
    match codes.is_empty() {
        true => reason.to_owned(),
        false => format!("{reason}: {}", codes.join(", ")),
    }
}

fn parameters() -> Value {
    let path = |name: &str, description: &str| {
        json!({ "name": name, "in": "path", "required": true, "description": description,
            "schema": { "type": "string", "minLength": 1, "maxLength": 4096, "pattern": PATH_PATTERN } })
    };
    let field = |name: &str, description: &str| {
        (
            name.to_owned(),
            json!({ "name": name, "in": "header", "description": description,
            "schema": { "type": "string" } }),
        )
    };
    let mut all: Map<String, Value> = [
        field("Range", "One byte range (RFC 9110, section 14.2)"),
        field("If-Range", "One strong entity tag (section 13.1.5)"),
        field("If-Match", "Entity tags or `*` (section 13.1.1)"),
        field("If-None-Match", "Entity tags or `*` (section 13.1.2)"),
        field("If-Modified-Since", "A date (section 13.1.3)"),
        field("If-Unmodified-Since", "A date (section 13.1.4)"),
    ]
    .into_iter()
    .collect();
    let of_files = "A relative path. Slashes separate its components, so they are not encoded; each component is encoded \
                    once.";
    all.insert("path".to_owned(), path("path", of_files));
    all.insert("directory".to_owned(), path("directory", of_files));
    all.insert(
        "append".to_owned(),
        json!({ "name": "append", "in": "query", "required": true, "allowEmptyValue": true,
            "schema": { "type": "string", "const": "" } }),
    );
    all.insert(
        "limit".to_owned(),
        json!({ "name": "limit", "in": "query", "description": "Maximum number of entries",
            "schema": { "type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000 } }),
    );
    all.insert(
        "from".to_owned(),
        json!({ "name": "from", "in": "query", "description": "`next` of the page before",
            "schema": { "type": "string", "pattern": "^[0-9]{1,20}$" } }),
    );
    Value::Object(all)
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], TEXT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_SCHEMAS=1` writes it.
    #[test]
    fn the_document_is_the_one_of_the_reference() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        // As values: the order of the fields depends on features of serde_json that other crates turn on.
        let written: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert!(written == document(), "UPDATE_SCHEMAS=1 writes docs/reference/openapi.json again");
    }
}
