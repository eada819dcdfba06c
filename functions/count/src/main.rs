//! The Lambda function `count`.

use std::{process::ExitCode, sync::Arc};

use aws::{
    Aws,
    credentials::Lender,
    lambda::{self, Metrics, environment},
};
use count::{Config, Memory};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::main(async || {
        let mut config = Config::read(&environment)?;
        config.root.open(async || Ok(Arc::new(Lender::of_lambda()) as _)).await?;
        let metrics = Metrics::of(&config.file_system)?;
        // Clients are for counts that are used again: without, the function starts four times as fast.
        let aws = if config.reuse.is_some() { Some(Aws::of_lambda()) } else { None };
        let memory = Memory::default();
        lambda::serve(&metrics, async |input, caller| {
            count::handle(aws.as_ref(), &config, &memory, input, caller.deadline).await
        })
        .await
    })
    .await
}
