//! Every code that the service answers with, or ends with, has an entry in `domain::codes`, and every entry is used.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{collections::BTreeSet, fs, path::Path};

use domain::codes::{CodeKind, of_kind};

/// Capitalized words in the sources that are no codes: fields of metrics and of ECS, outcomes of the access log.
const NOT_CODES: &[&str] = &[
    "Aborted",
    "AvailabilityZone",
    "Bearer",
    "BlockBlob",
    "CloudWatchMetrics",
    "Collected",
    "Dimensions",
    "Done",
    "Metrics",
    "Name",
    "Namespace",
    "Range",
    "Timestamp",
    "Unit",
];

/// String literals of the code outside of tests that are one capitalized word, also within a literal of JSON.
fn words(file: &Path, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let literals = code.split('"').map(|part| part.trim_end_matches('\\'));
    let is_word = |text: &&str| {
        text.starts_with(|char: char| char.is_ascii_uppercase())
            && text.chars().all(|char| char.is_ascii_alphanumeric())
            && text.chars().any(|char| char.is_ascii_lowercase())
    };
    found.extend(literals.filter(is_word).map(str::to_owned));
}

#[test]
fn every_code_of_the_service_has_an_entry_and_every_entry_is_used() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut used = BTreeSet::new();
    let mut folders = vec![crates.join("file-service/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                words(&path, &mut used);
            }
        }
    }
    // The codes of operations on files.
    words(&crates.join("files/src/error.rs"), &mut used);
    for word in NOT_CODES {
        assert!(used.remove(*word), "{word} is not in the sources any more: take it off the list");
    }
    let codes = |kind| of_kind(kind).map(|entry| entry.code.to_owned());
    let of_http: BTreeSet<String> = codes(CodeKind::HttpError).collect();
    let at_start: BTreeSet<String> = codes(CodeKind::StartError).collect();
    let unknown: Vec<_> = used.iter().filter(|code| !of_http.contains(*code) && !at_start.contains(*code)).collect();
    assert!(unknown.is_empty(), "no entry in crates/domain/src/codes/: {unknown:?}");
    let unused: Vec<_> = of_http.iter().filter(|code| !used.contains(*code)).collect();
    assert!(unused.is_empty(), "entries that the service does not answer with: {unused:?}");
    // The functions' own: theirs are in `crates/domain/src/config.rs` and `crates/aws/src/lambda.rs`.
    let unused: Vec<_> = at_start.iter().filter(|code| !used.contains(*code)).map(String::as_str).collect();
    assert_eq!(unused, ["InvalidConfiguration", "RuntimeFailed"]);
}
