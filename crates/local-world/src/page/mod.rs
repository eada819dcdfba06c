//! The page of a local world: the state machine live, the story of the last execution, the mount targets, and what a
//! visitor can do: create files, start an execution, cut a target off. On loopback only.

mod machine;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Query, Request, State},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use ctl::operator::executions;
use domain::{explain::Explanation, published::PublishedList, record::Execution};
use futures_util::{Stream, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{World, files, service};

const EVENT_INTERVAL: Duration = Duration::from_millis(500);
const MAX_EXECUTIONS: usize = 8;
/// Of one click.
const FILES_PER_CLICK: u64 = 500;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where a visitor may create files, and the service whose targets may be cut off.
#[derive(Default)]
pub(crate) struct Toys {
    /// `None`: the directory is the user's, and never written to.
    pub directory: Option<PathBuf>,
    pub service: Option<service::Router>,
}

/// A page that is served until it is dropped.
pub(crate) struct Page {
    pub url: String,
    server: JoinHandle<()>,
}

struct Shared {
    world: Arc<World>,
    toys: Toys,
    threshold: u64,
    /// Mount targets that a visitor has cut off.
    cut: Mutex<Vec<String>>,
    host: String,
}

impl Page {
    /// # Errors
    /// No port is free.
    pub async fn serve(world: Arc<World>, toys: Toys, threshold: u64, port: u16) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind(address).await.with_context(|| format!("--port {port}: {address}"))?;
        let host = listener.local_addr()?.to_string();
        let url = format!("http://{host}/");
        let shared = Arc::new(Shared { world, toys, threshold, cut: Mutex::default(), host });
        let app = Router::new()
            .route("/", get(async || asset("text/html; charset=utf-8", include_str!("page.html"))))
            // One look: the style is that of the file service's page.
            .route("/page.css", get(async || asset("text/css; charset=utf-8", CSS)))
            .route("/page.js", get(async || asset("text/javascript; charset=utf-8", include_str!("page.js"))))
            .route("/machine", get(draw))
            .route("/events", get(events))
            .route("/start", post(start))
            .route("/files", post(create_files))
            .route("/cut", post(cut))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), only_this_page))
            .with_state(shared);
        let server = tokio::spawn(async move {
            if let Err(err) = axum::serve(listener, app).await {
                eprintln!("the page ended: {err}");
            }
        });
        Ok(Self { url, server })
    }

    /// Opens the page in the user's browser, if there is one.
    pub fn open(&self) {
        let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let mut command = std::process::Command::new(program);
        // Without a browser the printed address is enough.
        let _ = command.arg(&self.url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const CSS: &str = concat!(include_str!("../../../file-service/src/page/page.css"), "\n", include_str!("machine.css"));

fn asset(kind: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (fields.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}

/// Refuses requests that another site makes in the visitor's browser.
async fn only_this_page(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if is_of_this_page(&request, &shared.host) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this page is for the browser of this machine\n").into_response()
}

/// The Host is this one (another is DNS rebinding), and what is not a read comes from this origin.
fn is_of_this_page(request: &Request, host: &str) -> bool {
    let field = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_own = |named: &str| named.replace("localhost", "127.0.0.1") == host;
    let origin = field(header::ORIGIN).map(|origin| origin.strip_prefix("http://").is_some_and(is_own));
    field(header::HOST).is_some_and(is_own) && origin.unwrap_or_else(|| request.method().is_safe())
}

async fn draw(State(shared): State<Arc<Shared>>) -> Result<Json<machine::Machine>, Refused> {
    let request = shared.world.clients.sfn.describe_state_machine().state_machine_arn(&shared.world.state_machine);
    let described = request.send().await.context("the state machine cannot be described")?;
    Ok(Json(machine::Machine::new(&serde_json::from_str(described.definition()).unwrap_or_default())))
}

/// The state of the world.
#[derive(Debug, Serialize)]
struct Now {
    threshold: u64,
    targets: Vec<Target>,
    /// The newest first.
    executions: Vec<Row>,
    /// States of the newest, in the order entered.
    states: Vec<String>,
    story: Vec<String>,
    can_create_files: bool,
    /// The page of the file service.
    service: Option<String>,
}

#[derive(Debug, Serialize)]
struct Target {
    mount_target_id: String,
    zone: String,
    state: String,
    is_published: bool,
    /// `None`: there is no service whose way could be cut off.
    is_cut: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    status: String,
    code: String,
}

impl Shared {
    async fn published(&self) -> Result<Option<PublishedList>> {
        let published = self.world.published().await?;
        Ok(published.and_then(|(text, _)| PublishedList::parse(&text).ok()))
    }

    async fn now(&self) -> Result<Now> {
        let client = &self.world.clients.sfn;
        let (targets, published, found) = tokio::try_join!(
            self.world.targets(),
            self.published(),
            executions::list(client, &self.world.state_machine, 0, MAX_EXECUTIONS)
        )?;
        if let (Some(service), Some(list)) = (&self.toys.service, &published) {
            service.publish(list)?;
        }
        let mut executions: Vec<Execution> = Vec::new();
        for (number, execution) in found.iter().enumerate() {
            executions.push(executions::read(client, execution.execution_arn(), number == 0).await?);
        }
        let story = executions.first().map(|latest| {
            let told = Explanation::of(latest);
            [told.observed, told.decided, told.done, told.failed].concat()
        });
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_published = |id: &str| {
            published.as_ref().is_some_and(|list| list.targets().iter().any(|one| one.mount_target_id.as_str() == id))
        };
        Ok(Now {
            threshold: self.threshold,
            targets: targets
                .iter()
                .map(|target| Target {
                    mount_target_id: target.id.to_string(),
                    zone: target.zone_name.to_string(),
                    state: target.state.to_string(),
                    is_published: is_published(target.id.as_str()),
                    is_cut: self.toys.service.as_ref().map(|_| cut.iter().any(|id| id == target.id.as_str())),
                })
                .collect(),
            states: executions.first().map(|latest| latest.states.clone()).unwrap_or_default(),
            executions: executions
                .iter()
                .map(|one| Row { name: one.name.clone(), status: one.status.clone(), code: one.code() })
                .collect(),
            story: story.unwrap_or_default(),
            can_create_files: self.toys.directory.is_some(),
            service: self.toys.service.as_ref().map(|service| format!("http://{}/", service.address)),
        })
    }
}

async fn events(State(shared): State<Arc<Shared>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(shared, |shared| async {
        tokio::time::sleep(EVENT_INTERVAL).await;
        let event = match shared.now().await {
            Ok(now) => serde_json::to_value(now).unwrap_or_default(),
            Err(err) => json!({ "error": format!("{err:#}") }),
        };
        Some((Ok(Event::default().data(event.to_string())), shared))
    }))
}

/// A refusal of what a visitor wants.
struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(err: E) -> Self {
        Self(err.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(json!({ "error": format!("{:#}", self.0) }))).into_response()
    }
}

async fn start(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refused> {
    let request = shared.world.clients.sfn.start_execution().state_machine_arn(&shared.world.state_machine);
    let started = request.input("{}").send().await.context("no execution was started")?;
    Ok(Json(json!({ "execution": started.execution_arn() })))
}

async fn create_files(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refused> {
    let directory = shared.toys.directory.clone().context("the directory is yours, and is never written to")?;
    tokio::task::spawn_blocking(move || files::add(&directory, FILES_PER_CLICK)).await??;
    Ok(Json(json!({ "created": FILES_PER_CLICK })))
}

#[derive(Deserialize)]
struct Cut {
    mount_target_id: String,
    is_cut: bool,
}

async fn cut(State(shared): State<Arc<Shared>>, Query(wanted): Query<Cut>) -> Result<Json<Value>, Refused> {
    let service = shared.toys.service.as_ref().context("there is no file service yet")?;
    let list = shared.published().await?.context("nothing is published")?;
    let mut cut = shared.cut.lock().unwrap_or_else(PoisonError::into_inner);
    let is_cut = cut.contains(&wanted.mount_target_id);
    if is_cut != wanted.is_cut {
        service.set_cut(&list, &wanted.mount_target_id, wanted.is_cut)?;
        match wanted.is_cut {
            true => cut.push(wanted.mount_target_id.clone()),
            false => cut.retain(|id| *id != wanted.mount_target_id),
        }
    }
    Ok(Json(json!({ "is_cut": wanted.is_cut })))
}
