//! Memory of connections, and of files that are streamed.

use anyhow::{Result, ensure};

use crate::{
    Settings,
    clients::{Client, Length, Task},
    lab::{HUGE, LARGE, LARGE_FILES, Lab},
};
use bench_kit::report::{Report, Target, markdown, number, paragraph};

/// Number of connections. A tenth of the others exists before the first measurement.
const CONNECTIONS: usize = 1100;
const MOST_KIB: f64 = 64.0;
/// Twice the data in flight, and overhead: the next piece is allocated before the last one is freed.
const MOST_STREAM_MIB: f64 = 17.0;

pub fn run(_: &Settings, lab: &mut Lab, clients: &[Client], report: &mut Report) -> Result<()> {
    let task = Task {
        address: lab.server.address(),
        connections: CONNECTIONS,
        in_flight: 1,
        length: Length::Times(1),
        operation: "idle",
        size: LARGE,
        directory: "large",
        files: LARGE_FILES,
    };
    let mut lines = vec![];
    for client in clients {
        let kib = match client.run(task) {
            Ok(kib) => kib,
            Err(err) if client.is_ours() => return Err(err),
            Err(err) => {
                println!("{}: {err:#}", client.name);
                lines.push([client.name.into(), "cannot".into(), String::new(), String::new(), String::new()]);
                continue;
            }
        };
        let target = if client.is_ours() { Target::AtMost(MOST_KIB) } else { Target::None };
        let [target, verdict] = target.cells(kib[0].max(kib.get(1).copied().unwrap_or(0.0)), 0);
        let counted = kib.get(1).map(|kib| number(*kib, 1)).unwrap_or_default();
        lines.push([client.name.to_owned(), number(kib[0], 1), counted, target, verdict]);
    }
    report.say(&format!(
        "\n## memory of an idle connection\n\n{}\n\n{}",
        paragraph(&format!(
            "A process opens connections, each with a client of its own that reads a file of 1 MiB once. Growth per connection from \
             the {}th to the {CONNECTIONS}th: resident memory, and memory from the allocator.",
            CONNECTIONS / 11
        )),
        markdown(["", "RSS, KiB", "allocated, KiB", "target", ""], lines)
    ));

    let ours = clients.iter().filter(|client| client.is_ours());
    let mut lines = vec![];
    for client in ours {
        for (operation, what) in [("stream-in", "read"), ("stream-out", "written")] {
            let task = Task { connections: 1, operation, size: HUGE, directory: "huge", files: 1, ..task };
            let most = client.run(task)?;
            ensure!(most.len() == 1, "one number");
            let [target, verdict] = Target::AtMost(MOST_STREAM_MIB).cells(most[0], 0);
            lines.push([format!("256 MiB {what}"), number(most[0], 1), target, verdict]);
        }
    }
    report.say(&format!(
        "\n## memory of a streamed file\n\n{}\n\n{}",
        paragraph(
            "Peak allocation of a client that streams 256 MiB, above that of an idle client: read by `File::read` in pieces \
             of 128 KiB, as the service does, and written by `Upload::write` in pieces of 8 MiB."
        ),
        markdown(["", "MiB", "target", ""], lines)
    ));
    Ok(())
}
