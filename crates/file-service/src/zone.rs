//! The Availability Zone of this task, from the ECS task metadata endpoint.

use std::time::Duration;

use axum::body::Body;
use domain::{config::ConfigError, model::ZoneName};
use http_body_util::{BodyExt, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::config::Config;

const METADATA_URI_VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_METADATA_BYTES: usize = 1 << 20;

/// The zone whose targets are preferred, and by how much; `None` without a preference.
///
/// # Errors
/// A preference is configured, and the zone of this task cannot be determined.
pub(super) async fn local(config: &Config) -> Result<Option<(ZoneName, f64)>, ConfigError> {
    if config.local_weight == 1.0 {
        return Ok(None);
    }
    let zone = match &config.zone {
        Some(zone) => Some(zone.clone()),
        None => tokio::time::timeout(METADATA_TIMEOUT, from_ecs()).await.ok().flatten(),
    };
    let missing = ConfigError::Missing {
        name: "AVAILABILITY_ZONE",
        expected: "the zone of this task, which ECS does not tell, since ROUTE_LOCAL_ZONE_WEIGHT is set",
    };
    zone.map(|zone| Some((zone, config.local_weight))).ok_or(missing)
}

/// From version 4 of the task metadata endpoint.
async fn from_ecs() -> Option<ZoneName> {
    let uri = format!("{}/task", std::env::var(METADATA_URI_VARIABLE).ok()?).parse().ok()?;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.get(uri).await.ok()?;
    let text = Limited::new(answer.into_body(), MAX_METADATA_BYTES).collect().await.ok()?.to_bytes();
    let task: serde_json::Value = serde_json::from_slice(&text).ok()?;
    task["AvailabilityZone"].as_str().map(ZoneName::new)
}
