//! `docs/reference/codes.md`.

use std::fmt::Write as _;

use super::{CodeKind, Entry, all, of_kind};

const INTRODUCTION: &str = "\
# Codes

Every code that the system shows to an operator: what it means, why it appears, and what to do. Look a code up with
`efs-autoscale help CODE`, which prints the same text, or with the search of the browser. `efs-autoscale help` lists all
codes. Case does not matter.

Start with `efs-autoscale explain latest`: it says in sentences what the last execution observed, decided and did, and
names the codes. In the commands below, replace what is in capitals (`FUNCTION`, `ARN`) and ids (`fs-…`) with those that
the output or the cause names. Names of resources are those of the default settings (`stack.name`,
`pipeline.parameterName`, `pipeline.namePrefix`, `service.launch`); the outputs of the stack have yours.

This page is generated from `crates/domain/src/codes/` ([how](../../CONTRIBUTING.md#add-a-code)).
";

/// The anchor of a code's heading, as GitHub makes it. A code that an earlier kind has too gets a number.
pub fn anchor(entry: &Entry) -> String {
    let slug = |code: &str| -> String {
        let kept = code.chars().filter(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'));
        kept.collect::<String>().to_ascii_lowercase()
    };
    let name = slug(entry.code);
    let earlier = all().take_while(|other| *other != entry).filter(|other| slug(other.code) == name).count();
    if earlier == 0 { name } else { format!("{name}-{earlier}") }
}

/// The whole page.
pub fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for kind in CodeKind::ALL {
        let _ = writeln!(text, "\n## {}\n\n{}", kind.title(), kind.place());
        for Entry { code, meaning, cause, remedy, .. } in of_kind(kind) {
            let _ = writeln!(text, "\n### {code}\n\n{meaning}\n\n**Cause.** {cause}\n");
            let steps: Vec<_> = remedy.lines().collect();
            match steps[..] {
                [step] => {
                    let _ = writeln!(text, "**Remedy.** {step}");
                }
                _ => {
                    let _ = writeln!(text, "**Remedy.**\n");
                    for (index, step) in steps.iter().enumerate() {
                        let _ = writeln!(text, "{}. {step}", index + 1);
                    }
                }
            }
        }
    }
    text
}
