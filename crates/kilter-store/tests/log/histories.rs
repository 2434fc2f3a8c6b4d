use crate::{all, last_segment};
use kilter_store::log::{Log, LogOptions};
use proptest::prelude::*;
use std::fs;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Reopen,
    /// Power loss: the last file keeps this share of its bytes, and may get zeros behind them.
    Cut {
        kept_permille: usize,
        zeros: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let record = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        6 => prop::collection::vec(record, 0..12).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        2 => (0..=1000usize, prop_oneof![Just(0usize), 1..300usize])
            .prop_map(|(kept_permille, zeros)| Step::Cut { kept_permille, zeros }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_whole_before_a_cut_is_there_and_nothing_else(steps in prop::collection::vec(step(), 1..30), segment_bytes in 100..3_000u64) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let options = LogOptions { segment_bytes, ..LogOptions::default() };
        let mut log = Some(Log::open(dir.path(), options.clone()).unwrap().0);
        let mut expected: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Append(batch) => {
                    let range = log.as_ref().unwrap().append(&batch).unwrap();
                    prop_assert_eq!(range.first, expected.len() as u64);
                    expected.extend(batch);
                    prop_assert_eq!(range.next, expected.len() as u64);
                }
                Step::Reopen => {
                    drop(log.take());
                    let (opened, recovery) = Log::open(dir.path(), options.clone()).unwrap();
                    prop_assert_eq!(recovery.truncated_reason, None);
                    log = Some(opened);
                }
                Step::Cut { kept_permille, zeros } => {
                    drop(log.take());
                    let path = last_segment(dir.path());
                    let before = fs::read(&path).unwrap();
                    // The header is durable before any record, so a power loss does not take it.
                    let keep = 28 + (before.len() - 28) * kept_permille / 1000;
                    let mut after = before[..keep].to_vec();
                    after.resize(keep + zeros, 0);
                    fs::write(&path, &after).unwrap();
                    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                    let mut end = 28;
                    let mut whole = first;
                    // Zeros may stand exactly where zeros were, so a record is whole as long as its bytes agree.
                    while whole < expected.len() {
                        let frame = end..end + 12 + expected[whole].len();
                        if after.get(frame.clone()) != before.get(frame.clone()) {
                            break;
                        }
                        end = frame.end;
                        whole += 1;
                    }
                    expected.truncate(whole);
                    log = Some(Log::open(dir.path(), options.clone()).unwrap().0);
                }
            }
            let log = log.as_ref().unwrap();
            prop_assert_eq!(log.next_offset(), expected.len() as u64);
            let stored: Vec<_> = all(log).into_iter().map(|r| r.1).collect();
            prop_assert_eq!(&stored, &expected);
        }
    }
}
