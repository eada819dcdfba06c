//! The promise of `efs-autoscale schema`.

use std::process::Command;

use serde_json::Value;

/// Fails unless what a command printed with `--json` has the schema that the program prints for it.
pub fn check(command: &str, printed: &Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_efs-autoscale")).args(["schema", command]).output().unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_slice(&output.stdout).unwrap()).unwrap();
    let errors: Vec<_> = schema.iter_errors(printed).map(|err| format!("{}: {err}", err.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {printed}");
}
