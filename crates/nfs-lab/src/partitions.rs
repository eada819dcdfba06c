//! Simulates the second RPC program of EFS, which reports the partition that a connection reaches, in a relay. See
//! `nfs41::partition`.

use crate::relay::{Action, Direction, Handle};

const PROGRAM: u32 = 400_123;

/// A reply to the program.
#[derive(Clone, Debug)]
pub enum BindReply {
    /// READY with a partition of 64 equal bytes.
    Ready(u8),
    Preferred(u8),
    RetryLater(&'static str),
    Error(&'static str),
    /// The server does not have the program.
    Unknown,
    Garbage,
    /// The connection is closed.
    Closed,
}

/// Answers the calls to the program with these replies in turn, and passes other calls.
pub fn answer_partitions(relay: &Handle, answers: Vec<BindReply>) {
    let mut next = 0;
    relay.on_record(move |way, record| {
        let word =
            |at: usize| record.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
        if way != Direction::ToServer || word(12) != Some(PROGRAM) {
            return Action::Pass;
        }
        let answer = &answers[next % answers.len()];
        next += 1;
        let mut bytes = record[..4].to_vec();
        let mut put = |words: &[u32]| bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        // An accepted reply without a verifier.
        put(&[1, 0, 0, 0]);
        match answer {
            BindReply::Closed => return Action::Cut(crate::relay::End::Fin),
            BindReply::Unknown => put(&[1]),
            BindReply::Garbage => put(&[0, 77]),
            BindReply::Ready(id) => put(&[&[0, 3], &[u32::from(*id) * 0x0101_0101; 16][..], &SCALE_UP].concat()),
            BindReply::Preferred(id) => put(&[&[0, 2], &[u32::from(*id) * 0x0101_0101; 16][..], &SCALE_UP].concat()),
            BindReply::RetryLater(text) | BindReply::Error(text) => {
                let kind = if matches!(answer, BindReply::Error(_)) { 4 } else { 1 };
                put(&[0, kind, u32::try_from(text.len()).unwrap()]);
                bytes.extend(text.bytes());
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes.extend(SCALE_UP.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        Action::Reply(bytes)
    });
}

/// The values that EFS sends by default: five connections, from 300 MiB/s, one second, a window of one second.
const SCALE_UP: [u32; 4] = [5, 300 << 20, 1, 1];
