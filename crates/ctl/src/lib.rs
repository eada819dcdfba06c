//! `efs-autoscale`, the program for people. [`count`] counts the files below a directory; [`local`] is the
//! whole system on one machine; [`probe`] asks NFS servers what they do; [`teardown`] takes a deployed system away.

mod account;
pub mod count;
pub mod local;
pub mod preflight;
pub mod probe;
mod screen;
mod stack;
pub mod teardown;
mod wait;

/// A number as people read it: `150000` as `150,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (150_000, "150,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(super::grouped(number), text);
        }
    }
}
