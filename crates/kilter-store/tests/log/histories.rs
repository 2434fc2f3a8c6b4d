use crate::{all, last_segment};
use kilter_store::log::{Log, LogOptions};
use proptest::prelude::*;
use std::fs::File;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Reopen,
    /// Power loss: the last file keeps this share of its bytes, and may get zeros behind them.
    Cut {
        kept_permille: u64,
        zeros: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let record = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        6 => prop::collection::vec(record, 0..12).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        2 => (0..=1000u64, prop_oneof![Just(0u64), 1..300u64])
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
        // Each record with the position in its segment where it ends.
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
                    let file = File::options().write(true).open(&path).unwrap();
                    let len = file.metadata().unwrap().len();
                    // The header is durable before any record, so a power loss does not take it.
                    let keep = 28 + (len - 28) * kept_permille / 1000;
                    file.set_len(keep).unwrap();
                    file.set_len(keep + zeros).unwrap();
                    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                    let mut end = 28;
                    let mut whole = first;
                    // Zeros may stand exactly where zeros were written, so records are whole as long as the bytes agree.
                    while whole < expected.len() {
                        let record = &expected[whole];
                        let record_end = end + 12 + record.len() as u64;
                        let zeros_agree = record_end <= keep + zeros
                            && end + 12 <= keep
                            && record[(keep - end - 12).min(record.len() as u64) as usize..].iter().all(|b| *b == 0);
                        if record_end > keep && !zeros_agree {
                            break;
                        }
                        end = record_end;
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
