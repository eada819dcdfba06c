//! The Lambda function `poll-available`.

use std::process::ExitCode;

use aws::{
    Aws,
    lambda::{self, Metrics, environment},
};
use domain::config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::main(async || {
        let file_system = config::file_system_id(&environment)?;
        let metrics = Metrics::of(&file_system)?;
        let aws = Aws::of_lambda();
        lambda::serve(&metrics, async |input, _| poll_available::handle(&aws, &file_system, input).await).await
    })
    .await
}
