//! The table of codes: complete, and shown by `docs/reference/codes.md`.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use domain::{
    codes::{
        CodeKind, Entry, action, all, anchor, deferral, document, error, find, find_all, of_kind, reason, suggest,
        warning,
    },
    config::INVALID_CONFIGURATION,
    error::{
        Code, Coded, CountError, CreateTargetError, EvaluateError, PollAvailableError, PublishError, RedeployError,
    },
    model::{MountTargetId, SubnetId, ZoneId},
    policy::{Decision, Reason, Warning},
    redeployment::Deferral,
};
use serde::Serialize;
use serde_json::Value;

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// How a value is written in the output of an execution: its tag, or the value itself.
fn written(value: &impl Serialize, tag: &str) -> String {
    match serde_json::to_value(value).unwrap() {
        Value::String(text) => text,
        object => object[tag].as_str().unwrap().to_owned(),
    }
}

/// The entries of a kind are exactly those of the samples, under the names that operators see.
fn assert_covers(kind: CodeKind, found: &[(&'static Entry, String)]) {
    for (entry, name) in found {
        assert_eq!((entry.code, entry.kind), (name.as_str(), kind));
    }
    let of_samples: BTreeSet<&str> = found.iter().map(|(entry, _)| entry.code).collect();
    let of_table: BTreeSet<&str> = of_kind(kind).map(|entry| entry.code).collect();
    // A new variant has an entry, since the match in `codes` is exhaustive, and needs a sample here.
    assert_eq!(of_samples, of_table, "{kind}");
}

#[test]
fn every_error_has_an_entry() {
    let all = [
        CountError::CODES,
        EvaluateError::CODES,
        CreateTargetError::CODES,
        PollAvailableError::CODES,
        PublishError::CODES,
        RedeployError::CODES,
    ];
    let codes: BTreeSet<Code> = all.concat().into_iter().collect();
    assert_covers(CodeKind::Error, &codes.iter().map(|code| (error(*code), code.to_string())).collect::<Vec<_>>());
    assert!(find(INVALID_CONFIGURATION).is_some());
}

#[test]
fn every_decision_has_an_entry() {
    let decisions = [
        Decision::Publish,
        Decision::Redeploy { version: 1, fingerprint: String::new() },
        Decision::Adopt { mount_target_id: MountTargetId::new("fsmt-1") },
        Decision::Create { subnet_id: SubnetId::new("subnet-1"), zone_id: ZoneId::new("az1") },
        Decision::Nothing { reason: Reason::CoolingDown },
        Decision::NoAvailableTargets,
    ];
    let found: Vec<_> = decisions.iter().map(|decision| (action(decision), written(decision, "action"))).collect();
    assert_covers(CodeKind::Action, &found);
    let reasons = [
        Reason::CountUnknown,
        Reason::BelowThreshold,
        Reason::OneZone,
        Reason::AtMaximum,
        Reason::NoAvailableSubnet,
        Reason::AllSubnetsRefused,
        Reason::CoolingDown,
    ];
    assert_covers(CodeKind::Reason, &reasons.map(|one| (reason(one), written(&one, ""))));
    for decision in decisions.into_iter().chain(reasons.map(|reason| Decision::Nothing { reason })) {
        assert!(find(decision.word()).is_some(), "{}, as the metric says it", decision.word());
    }
}

#[test]
fn every_warning_has_an_entry() {
    let (id, message) = (MountTargetId::new("fsmt-1"), String::new());
    let warnings = [
        Warning::TargetInError { mount_target_id: id.clone() },
        Warning::TargetWithoutAddress { mount_target_id: id },
        Warning::PublishedDamaged { message: message.clone() },
        Warning::CountIncomplete,
        Warning::NoAvailableSubnet,
        Warning::AllSubnetsRefused,
        Warning::RedeployRolledBack,
        Warning::RedeployDeferred { reason: Deferral::DeploymentInProgress },
        Warning::SubnetRefused {
            subnet_id: SubnetId::new("subnet-1"),
            zone_id: ZoneId::new("az1"),
            code: String::new(),
            message: message.clone(),
            refused_at: 0,
        },
        Warning::ServiceNotFound,
        Warning::ServiceUnknown { message: message.clone() },
        Warning::ObservationIncomplete { message },
    ];
    let found: Vec<_> = warnings.iter().map(|one| (warning(one), written(one, "warning"))).collect();
    assert_covers(CodeKind::Warning, &found);
    let deferrals = [
        Deferral::ServiceNotFound,
        Deferral::ServiceNotActive,
        Deferral::DeploymentController,
        Deferral::DeploymentInProgress,
        Deferral::TooManyDeployments,
    ];
    assert_covers(CodeKind::Deferral, &deferrals.map(|one| (deferral(one), written(&one, ""))));
}

#[test]
fn every_error_that_the_state_machine_names_has_an_entry() {
    let text = fs::read_to_string(project().join("statemachine/autoscale.asl.json")).unwrap();
    let names: BTreeSet<&str> = text
        .split(['"', '\''])
        .filter(|word| word.chars().all(|char| char.is_ascii_alphanumeric() || char == '.'))
        .filter(|word| {
            let is_of_aws = word.starts_with("Lambda.") || word.starts_with("States.");
            (is_of_aws && *word != "States.ALL") || ["UnknownError", "TargetTimedOut"].contains(word)
        })
        .collect();
    assert!(names.len() >= 10 && names.contains("TargetTimedOut"), "{names:?}");
    for name in names {
        assert!(find(name).is_some_and(|entry| entry.kind == CodeKind::MachineError), "{name}");
    }
}

#[test]
fn every_entry_says_what_to_do() {
    let mut known = BTreeMap::new();
    for entry in all() {
        let Entry { code, kind, meaning, cause, .. } = *entry;
        for text in [meaning, cause].into_iter().chain(entry.steps()) {
            let ends = text.ends_with(['.', ':']) && !text.contains('\n') && !text.contains("  ");
            assert!(ends && text.matches('`').count() % 2 == 0, "{code}: {text:?}");
        }
        assert!(entry.steps().count() >= 1, "{code}");
        assert_eq!(known.insert((code.to_ascii_lowercase(), kind), entry), None, "{code} is there twice");
    }
    // The description of an alarm links its anchor, which has no number then.
    for alarm in of_kind(CodeKind::Alarm) {
        assert_eq!((find_all(alarm.code).count(), anchor(alarm)), (1, alarm.code.to_ascii_lowercase()));
    }
}

#[test]
fn a_code_is_found_in_any_case_and_a_misspelt_one_is_suggested() {
    assert_eq!(find("TARGETTIMEDOUT").unwrap().code, "TargetTimedOut");
    assert_eq!(find("TargetTimedOu"), None);
    assert_eq!(
        find_all("targetfailed").map(|entry| entry.kind).collect::<Vec<_>>(),
        [CodeKind::Error, CodeKind::HttpError]
    );
    for (text, code) in [
        ("TargetTimeout", "TargetTimedOut"),
        ("no-available-subnet", "no_available_subnet"),
        ("iolimits", "IoLimit"),
        ("EFSMountTimeout", "Lambda.EFSMountTimeoutException"),
        ("below_treshold", "below_threshold"),
    ] {
        assert_eq!(suggest(text).first(), Some(&code), "{text}: {:?}", suggest(text));
    }
    assert_eq!((suggest("zzzzqqqq"), suggest("")), (vec![], vec![]));
    assert!(all().all(|entry| suggest(entry.code).contains(&entry.code)));
}

/// `UPDATE_CODES=1` writes it.
#[test]
fn the_document_has_every_code() {
    let path = project().join("docs/reference/codes.md");
    if std::env::var_os("UPDATE_CODES").is_some() {
        fs::write(&path, document()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == document(), "docs/reference/codes.md is not what the table says: run with UPDATE_CODES=1");
}
