//! The Lambda function `create-target`.

use std::process::ExitCode;

use aws::{
    Aws,
    lambda::{self, Caller, Metrics, environment},
};
use create_target::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::main(async || {
        let config = Config::read(&environment)?;
        let metrics = Metrics::of(&config.file_system)?;
        let aws = Aws::of_lambda();
        lambda::serve(&metrics, async |input, caller: Caller| {
            create_target::handle(&aws, &config, input, caller.execution).await
        })
        .await
    })
    .await
}
