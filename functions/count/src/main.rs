//! The Lambda function `count`.

use std::process::ExitCode;

use aws::lambda::{self, Metrics, environment};
use domain::{config, messages::CountInput};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::main(async || {
        let root = config::target_directory(&environment)?;
        let metrics = Metrics::of(&config::file_system_id(&environment)?)?;
        lambda::serve(&metrics, async |input: CountInput, _| count::handle(&root, &input)).await
    })
    .await
}
