//! Round trips per operation.

use std::time::Duration;

use anyhow::Result;

use crate::{
    Settings,
    clients::{Client, Length, Task},
    lab::{Lab, SMALL, SMALL_FILES},
};
use bench_kit::report::{Report, Target, markdown, number, paragraph};

const TIMES: u64 = 100;

pub fn run(_: &Settings, lab: &mut Lab, clients: &[Client], report: &mut Report) -> Result<()> {
    lab.relay.delay_round_trip(Duration::ZERO);
    let mut lines = vec![];
    for (operation, what) in [
        ("stat", "stat"),
        ("read", "read of a file of 4 KiB"),
        ("write", "write of a new file of 4 KiB"),
        ("remove", "remove"),
    ] {
        for client in clients {
            // Both runs include connecting.
            let mut calls = |times: u64| -> Result<u64> {
                let task = Task {
                    address: lab.relay.address(),
                    connections: 1,
                    in_flight: 1,
                    length: Length::Times(times),
                    operation,
                    size: SMALL,
                    directory: "small",
                    files: SMALL_FILES,
                };
                let before = lab.relay.counts().calls;
                lab.within(task, |task| client.run(task))?;
                Ok(lab.relay.counts().calls - before)
            };
            let trips = match (calls(1), calls(TIMES + 1)) {
                (Ok(one), Ok(all)) => (all as f64 - one as f64) / TIMES as f64,
                _ if !client.is_ours() => {
                    lines.push([format!("{what}, {}", client.name), "cannot".into(), String::new(), String::new()]);
                    continue;
                }
                (Err(err), _) | (_, Err(err)) => return Err(err),
            };
            let target = if client.is_ours() { Target::AtMost(1.0) } else { Target::None };
            let [target, verdict] = target.cells(trips, 0);
            lines.push([format!("{what}, {}", client.name), number(trips, 2), target, verdict]);
        }
    }
    report.say(&format!(
        "\n## round trips for one operation\n\n{}\n\n{}",
        paragraph(&format!("Calls that the relay counts for {TIMES} sequential operations.")),
        markdown(["", "calls", "target", ""], lines)
    ));
    Ok(())
}
