//! The Lambda function `evaluate`.

use std::process::ExitCode;

use aws::{
    Aws,
    lambda::{self, Metrics, environment},
};
use evaluate::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::main(async || {
        let config = Config::read(&environment)?;
        let metrics = Metrics::of(&config.file_system)?;
        let aws = Aws::of_lambda();
        lambda::serve(&metrics, async |input, _| evaluate::handle(&aws, &config, input).await).await
    })
    .await
}
