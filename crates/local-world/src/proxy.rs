//! A proxy between the functions and the emulator. It forwards everything and gives some calls the behaviour of AWS that
//! the emulator lacks.
//!
//! It always refuses what AWS refuses and the emulator accepts: `strict.rs`. In addition, [`Rule`]s change
//! calls; the newest matching rule applies. The functions' code does not know about it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, Method, Response, StatusCode, Uri, header},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{strict::Strict, world::sdk_config};

/// Maximum size of a request body, far above any call of the functions.
const MAX_BODY: usize = 16 << 20;

/// One call to AWS, such as `efs:CreateMountTarget`.
pub type Operation = String;

/// A rule: which calls, and what happens to them.
#[derive(Clone)]
pub struct Rule {
    /// `efs:CreateMountTarget`
    pub operation: &'static str,
    /// Only calls whose body contains this text.
    pub containing: Option<String>,
    /// Number of calls until the rule is used up.
    pub times: u32,
    pub behaviour: Behaviour,
}

impl Rule {
    /// Every call of this operation.
    pub fn always(operation: &'static str, behaviour: Behaviour) -> Self {
        Self { operation, containing: None, times: u32::MAX, behaviour }
    }

    /// The next call of this operation.
    pub fn once(operation: &'static str, behaviour: Behaviour) -> Self {
        Self { times: 1, ..Self::always(operation, behaviour) }
    }

    /// Only calls whose body contains `text`.
    pub fn containing(self, text: impl Into<String>) -> Self {
        Self { containing: Some(text.into()), ..self }
    }
}

/// The behaviour for a call.
#[derive(Clone)]
pub enum Behaviour {
    /// Not forwarded; responds with AWS's error.
    Refuse { status: u16, code: &'static str, message: &'static str },
    /// Forwarded; responds with this error anyway, like a crash on the way back.
    LoseAnswer { status: u16, code: &'static str },
    /// Delayed by this time.
    Delay(Duration),
    /// For `efs:CreateMountTarget`: the new target is `creating` for this long, as on AWS. The emulator alone makes it
    /// `available` at once.
    HoldCreating(Duration),
    /// Forwarded; the JSON response is changed.
    Rewrite(Arc<dyn Fn(&mut Value) + Send + Sync>),
}

impl Behaviour {
    /// A [`Behaviour::Rewrite`].
    pub fn rewrite(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Rewrite(Arc::new(change))
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse { code, .. } => write!(f, "Refuse({code})"),
            Self::LoseAnswer { code, .. } => write!(f, "LoseAnswer({code})"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
            Self::HoldCreating(time) => write!(f, "HoldCreating({time:?})"),
            Self::Rewrite(_) => f.write_str("Rewrite"),
        }
    }
}

/// A running proxy. Dropping it ends it.
pub struct Proxy {
    endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<Operation>>,
    strict: Strict,
    /// Which mount targets are shown as `creating`, and until when.
    creating: Mutex<HashMap<String, Instant>>,
}

/// Locks, ignoring poisoning.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            rules: Mutex::default(),
            calls: Mutex::default(),
            strict: Strict::new(&sdk_config(upstream)),
            creating: Mutex::default(),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            if let Err(err) = axum::serve(listener, app).await {
                eprintln!("the proxy ended: {err}");
            }
        });
        Ok(Self { endpoint, shared, server })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds a rule before the existing ones.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared.rules).insert(0, rule);
    }

    /// Removes all rules, holds and recorded calls.
    pub fn clear(&self) {
        lock(&self.shared.rules).clear();
        lock(&self.shared.creating).clear();
        lock(&self.shared.calls).clear();
    }

    /// Shows this mount target as `creating` from now on, for this long.
    pub fn hold_creating(&self, mount_target: &str, time: Duration) {
        lock(&self.shared.creating).insert(mount_target.to_owned(), Instant::now() + time);
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> Vec<Operation> {
        lock(&self.shared.calls).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    match shared.pass(request).await {
        Ok(response) => response,
        Err(err) => error("", StatusCode::BAD_GATEWAY, "ProxyFailed", &err.to_string()),
    }
}

impl Shared {
    async fn pass(&self, request: Request) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = collect(body).await?;
        let operation = operation(&head.method, &head.uri, &head.headers, &body);
        lock(&self.calls).push(operation.clone());

        let rule = self.take_rule(&operation, &body);
        match &rule {
            Some(Behaviour::Refuse { status, code, message }) => {
                return Ok(error(&operation, StatusCode::from_u16(*status)?, code, message));
            }
            Some(Behaviour::Delay(time)) => tokio::time::sleep(*time).await,
            _ => {}
        }
        if let Some(refusal) = self.strict.refusal(&operation, &body).await {
            return Ok(error(&operation, StatusCode::from_u16(refusal.status)?, refusal.code, &refusal.message));
        }
        let (parts, body) = self.forward(head.method, &head.uri, head.headers, body).await?;
        if let Some(Behaviour::LoseAnswer { status, code }) = rule {
            return Ok(error(&operation, StatusCode::from_u16(status)?, code, "the answer was lost on the way"));
        }
        if let Some(Behaviour::HoldCreating(time)) = rule
            && let Ok(created) = serde_json::from_slice::<Value>(&body)
            && let Some(id) = created["MountTargetId"].as_str()
        {
            lock(&self.creating).insert(id.to_owned(), Instant::now() + time);
        }
        let body = if operation.ends_with("MountTarget") || operation.ends_with("MountTargets") {
            change_json(body, |answer| self.show_creating(answer))
        } else {
            body
        };
        let body = match rule {
            Some(Behaviour::Rewrite(change)) => change_json(body, |answer| change(answer)),
            _ => body,
        };
        let mut response = Response::from_parts(parts, Body::from(body));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(response)
    }

    /// The behaviour of the first matching rule; uses it once.
    fn take_rule(&self, operation: &str, body: &[u8]) -> Option<Behaviour> {
        let mut rules = lock(&self.rules);
        let text = String::from_utf8_lossy(body);
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0
                && rule.operation == operation
                && rule.containing.as_ref().is_none_or(|part| text.contains(part.as_str()))
        })?;
        rule.times = rule.times.saturating_sub(u32::from(rule.times != u32::MAX));
        Some(rule.behaviour.clone())
    }

    async fn forward(
        &self,
        method: Method,
        uri: &Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(http::response::Parts, Bytes)> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // Hop-by-hop header fields.
        for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.upstream));
        if let Some(all) = request.headers_mut() {
            *all = headers;
        }
        let (parts, body) = self.client.request(request.body(Full::new(body))?).await?.into_parts();
        Ok((parts, collect(body).await?))
    }

    /// Changes held targets to `creating`, in one target or a list.
    fn show_creating(&self, answer: &mut Value) {
        let creating = lock(&self.creating);
        let show = |target: &mut Value| {
            let until = target["MountTargetId"].as_str().and_then(|id| creating.get(id));
            if until.is_some_and(|until| Instant::now() < *until) {
                target["LifeCycleState"] = json!("creating");
            }
        };
        match answer.get_mut("MountTargets").and_then(Value::as_array_mut) {
            Some(targets) => targets.iter_mut().for_each(show),
            None => show(answer),
        }
    }
}

/// The name of a call, according to the protocol of its service.
fn operation(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Operation {
    if let Some(target) = headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        // AmazonSSM.PutParameter, AmazonEC2ContainerServiceV20141113.UpdateService
        let (service, name) = target.split_once('.').unwrap_or((target, ""));
        let service = match service {
            "AmazonSSM" => "ssm",
            service if service.starts_with("AmazonEC2ContainerService") => "ecs",
            other => other,
        };
        return format!("{service}:{name}");
    }
    let path = uri.path().trim_end_matches('/');
    match (method.as_str(), path) {
        ("POST", "/2015-02-01/mount-targets") => "efs:CreateMountTarget".to_owned(),
        ("GET", "/2015-02-01/mount-targets") => "efs:DescribeMountTargets".to_owned(),
        ("GET", "/2015-02-01/file-systems") => "efs:DescribeFileSystems".to_owned(),
        // Action=DescribeSubnets&Version=2016-11-15: each service of this protocol has a version of its own.
        ("POST", "") => {
            let text = String::from_utf8_lossy(body);
            let field = |name| text.split('&').find_map(|field| field.strip_prefix(name));
            let service = match field("Version=") {
                Some("2010-05-15") => "cloudformation",
                Some("2015-12-01") => "elasticloadbalancing",
                _ => "ec2",
            };
            format!("{service}:{}", field("Action=").unwrap_or("Unknown"))
        }
        (method, path) => format!("unknown:{method} {path}"),
    }
}

fn error(operation: &str, status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let (kind, body) = match operation.split_once(':').map_or("", |(service, _)| service) {
        "cloudformation" | "elasticloadbalancing" => (
            "text/xml",
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>from-the-proxy</RequestId></ErrorResponse>"
            ),
        ),
        // The query protocol of EC2.
        "ec2" => (
            "text/xml",
            format!(
                "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
                 <RequestID>from-the-proxy</RequestID></Response>"
            ),
        ),
        // REST-JSON reads the header, AWS-JSON the body, so the error is in both.
        _ => (
            "application/json",
            json!({"__type": code, "ErrorCode": code, "code": code, "message": message, "Message": message})
                .to_string(),
        ),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(code) = code.parse() {
        headers.insert(HeaderName::from_static("x-amzn-errortype"), code);
    }
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert("x-amzn-requestid", header::HeaderValue::from_static("from-the-proxy"));
    response
}

/// A response that is not JSON is unchanged.
fn change_json(body: Bytes, change: impl FnOnce(&mut Value)) -> Bytes {
    match serde_json::from_slice::<Value>(&body) {
        Ok(mut answer) => {
            change(&mut answer);
            Bytes::from(answer.to_string())
        }
        Err(_) => body,
    }
}

async fn collect<B>(body: B) -> Result<Bytes>
where
    B: axum::body::HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(err) if err.is::<LengthLimitError>() => Err(anyhow!("a body of more than {MAX_BODY} bytes")),
        Err(err) => Err(anyhow!(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_whatever_its_protocol() {
        let ssm = HeaderMap::from_iter([(
            HeaderName::from_static("x-amz-target"),
            "AmazonSSM.PutParameter".parse().unwrap(),
        )]);
        let cases = [
            ("POST", "/", ssm, "", "ssm:PutParameter"),
            ("POST", "/", HeaderMap::new(), "Action=DescribeSubnets&Version=2016-11-15", "ec2:DescribeSubnets"),
            ("POST", "/2015-02-01/mount-targets", HeaderMap::new(), "{}", "efs:CreateMountTarget"),
            ("GET", "/2015-02-01/mount-targets?FileSystemId=fs-1", HeaderMap::new(), "", "efs:DescribeMountTargets"),
            ("GET", "/2015-02-01/file-systems/?FileSystemId=fs-1", HeaderMap::new(), "", "efs:DescribeFileSystems"),
        ];
        for (method, uri, headers, body, expected) in cases {
            let named = operation(&method.parse().unwrap(), &uri.parse().unwrap(), &headers, body.as_bytes());
            assert_eq!(named, expected);
        }
    }
}
