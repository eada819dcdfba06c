//! From the start of the process to the first answer that it is ready.

use std::time::Instant;

use anyhow::Result;

use crate::{
    Settings,
    servers::{Site, place},
};
use bench_kit::report::{Report, Samples, Target, markdown, number};

const MOST_MS: f64 = 1000.0;

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let place = place(&settings.disk)?;
    let site = Site::new(place.path(), "site")?;
    let starts = if settings.quick { 5 } else { 20 };
    let mut times = Samples::default();
    for _ in 0..starts {
        let began = Instant::now();
        let server = site.router_unready(&[])?;
        server.wait_until_ready()?;
        times.add(began.elapsed().as_secs_f64() * 1e3);
    }
    let [target, outcome] = Target::AtMost(MOST_MS).cells(times.median(), 0);
    let line = ["ours".to_owned(), number(times.median(), 1), times.range(1), target, outcome];
    report.say(&format!(
        "\n## start: from exec to the first 200 of /readyz\n\n{starts} starts with three targets that are mounted, the list from a file.\n\n{}",
        markdown(["", "ms", "from – to", "target", ""], [line])
    ));
    Ok(())
}
