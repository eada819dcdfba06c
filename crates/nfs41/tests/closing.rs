//! A file that was locked for a change that fails is unlocked and closed, wherever the server answers NFS4ERR_DELAY.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Failing, has, lab, operations};
use nfs_lab::{Action, Direction};
use nfs41::{Error, Precondition, PutOptions, Status};

const CLOSE: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_is_closed_wherever_the_server_says_later() {
    let Some(lab) = lab() else { return };
    lab.client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    // SEQUENCE, PUTFH, LOCKU, CLOSE.
    for index in 0..4 {
        let (mut failing, mut stopped) = (Failing::default(), false);
        let passed = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&passed);
        lab.relay.on_record(move |way, record| {
            if way == Direction::ToClient {
                return failing.answered(record);
            }
            if has(record, CLOSE) && !stopped {
                stopped = true;
                assert_eq!(operations(record).len(), 4);
                return failing.stop(record, index, Status::DELAY.0);
            }
            seen.lock().unwrap().extend(operations(record).iter().map(|(operation, _)| *operation));
            Action::Pass
        });
        let never = PutOptions { precondition: Precondition::If(Arc::new(|_| false)), ..PutOptions::default() };
        let refused = lab.client.append(b"f", "more".into(), never).await;
        assert!(matches!(refused, Err(Error::ConditionFailed)), "{index}: {refused:?}");
        assert_eq!(passed.lock().unwrap().last(), Some(&CLOSE), "{index}: it is still open");
        lab.relay.pass_records();
    }
    assert_eq!(&lab.client.read(b"f", 0, 10).await.unwrap().data[..], b"old");
}
