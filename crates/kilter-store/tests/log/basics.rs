use crate::{all, open, segments, small};
use kilter_store::log::{AppendedRange, Log, LogError, LogOptions};
use std::sync::Arc;

#[test]
fn records_come_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = open(dir.path());
        assert_eq!(log.append(&["a", "bb"]).unwrap(), AppendedRange { first: 0, next: 2 });
        assert_eq!(log.append(&[b""]).unwrap(), AppendedRange { first: 2, next: 3 });
        assert_eq!(log.append::<&str>(&[]).unwrap(), AppendedRange { first: 3, next: 3 });
        log.sync().unwrap();
        assert_eq!(log.durable_offset(), 3);
    }
    let (log, recovery) = Log::open(dir.path(), LogOptions::default()).unwrap();
    assert_eq!((recovery.next_offset, recovery.truncated_bytes, recovery.segments), (3, 0, 1));
    assert_eq!(recovery.truncated_reason, None);
    assert_eq!(all(&log), [(0, b"a".to_vec()), (1, b"bb".to_vec()), (2, b"".to_vec())]);
    assert_eq!(log.durable_offset(), 3);
}

#[test]
fn segments_roll_and_every_offset_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let payload = |i: u64| format!("{i}:{}", "x".repeat((i * 7 % 300) as usize));
    {
        let (log, _) = Log::open(dir.path(), small()).unwrap();
        for i in 0..200 {
            log.append(&[payload(i)]).unwrap();
        }
    }
    assert!(segments(dir.path()).len() > 10);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!(recovery.next_offset, 200);
    for i in 0..200 {
        assert_eq!(log.read(i).unwrap().unwrap(), payload(i).as_bytes());
        let (offset, first) = log.reader(i).next().unwrap().unwrap();
        assert_eq!((offset, &first[..]), (i, payload(i).as_bytes()));
    }
    assert_eq!(log.read(200).unwrap(), None);
    assert_eq!(all(&log).len(), 200);
}

#[test]
fn seeks_within_a_large_segment_use_the_index_before_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let payload = |i: u64| format!("{i:0>1000}");
    let check = |log: &Log| {
        for i in (0..3_000).step_by(97) {
            assert_eq!(log.read(i).unwrap().unwrap(), payload(i).as_bytes());
        }
    };
    {
        let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
        for batch in (0..3_000).collect::<Vec<_>>().chunks(100) {
            log.append(&batch.iter().map(|i| payload(*i)).collect::<Vec<_>>()).unwrap();
        }
        check(&log);
    }
    check(&Log::open(dir.path(), options).unwrap().0);
}

#[test]
fn a_reader_tails_the_writer_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let mut reader = log.reader(0);
    assert!(reader.next_record().unwrap().is_none());
    for i in 0..100u64 {
        log.append(&[vec![i as u8; 90]]).unwrap();
        assert_eq!(reader.next_record().unwrap(), Some((i, &vec![i as u8; 90][..])));
        assert!(reader.next_record().unwrap().is_none());
    }
    let mut ahead = log.reader(101);
    assert!(ahead.next_record().unwrap().is_none());
    log.append(&["100", "101"]).unwrap();
    assert_eq!(ahead.next_record().unwrap(), Some((101, &b"101"[..])));
}

#[test]
fn a_second_opener_is_kept_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Log::open(dir.path(), LogOptions::default()).unwrap_err();
    assert!(matches!(error, LogError::Locked { .. }));
    assert!(error.to_string().contains("hint: stop the other kilter process"));
    drop(first);
    open(dir.path());
}

#[test]
fn limits_refuse_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { max_record_bytes: 10, max_batch_bytes: 60, ..LogOptions::default() };
    let (log, _) = Log::open(dir.path(), options).unwrap();
    let error = log.append(&["fine", "much too long"]).unwrap_err();
    assert!(matches!(error, LogError::RecordTooLarge { bytes: 13, limit: 10 }));
    let error = log.append(&["12345678"; 4]).unwrap_err();
    assert!(matches!(error, LogError::BatchTooLarge { bytes: 80, limit: 60 }));
    assert_eq!(log.next_offset(), 0);
}

#[test]
fn lowering_the_record_limit_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&["a record of some length"]).unwrap();
    let options = LogOptions { max_record_bytes: 4, ..LogOptions::default() };
    let (log, recovery) = Log::open(dir.path(), options).unwrap();
    assert_eq!((recovery.next_offset, recovery.truncated_bytes), (1, 0));
    assert_eq!(log.read(0).unwrap().unwrap(), &b"a record of some length"[..]);
}

#[test]
fn concurrent_appenders_get_dense_offsets_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), LogOptions { segment_bytes: 20_000, ..LogOptions::default() }).unwrap();
    let log = Arc::new(log);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let log = &log;
            scope.spawn(move || {
                for i in 0..500u32 {
                    let record = [thread.to_le_bytes(), i.to_le_bytes()].concat();
                    let range = log.append(&[record.clone(), record]).unwrap();
                    assert_eq!(range.next, range.first + 2);
                    if i % 100 == 0 {
                        log.wait_durable(range.next).unwrap();
                        assert!(log.durable_offset() >= range.next);
                    }
                }
            });
        }
    });
    let mut seen = [0u32; 4];
    for (at, (offset, payload)) in all(&log).into_iter().enumerate() {
        assert_eq!(offset, at as u64);
        let thread = usize::from(payload[0]);
        let i = u32::from_le_bytes(payload[4..].try_into().unwrap());
        assert_eq!(i, seen[thread] / 2);
        seen[thread] += 1;
    }
    assert_eq!(seen, [1000; 4]);
}

#[tokio::test]
async fn async_waiters_and_followers_are_woken() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    let mut appended = log.watch_appended();
    let follower = tokio::spawn(async move { *appended.wait_for(|n| *n >= 3).await.unwrap() });
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.durable(3).await })
        })
        .collect();
    log.append(&["a", "b", "c"]).unwrap();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(log.durable_offset(), 3);
    assert_eq!(follower.await.unwrap(), 3);
}

#[test]
fn old_segments_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for i in 0..100u8 {
        log.append(&[[i; 100]]).unwrap();
    }
    let mut inside = log.reader(0);
    inside.next_record().unwrap();
    let start = log.remove_before(50).unwrap();
    assert!(start > 0 && start <= 50);
    assert_eq!(inside.next_record().unwrap().unwrap().0, 1);
    let error = log.read(0).unwrap_err();
    assert!(matches!(error, LogError::OffsetGone { offset: 0, start: s } if s == start));
    assert_eq!(all(&log).len() as u64, 100 - start);
    log.remove_before(u64::MAX).unwrap();
    assert_eq!(log.read(99).unwrap().unwrap()[0], 99);
    drop(log);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!(recovery.next_offset, 100);
    assert!(log.start_offset() > start);
}

#[test]
fn a_new_log_may_begin_at_any_offset_and_an_old_one_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |first_offset| LogOptions { first_offset, ..small() };
    let (log, recovery) = Log::open(dir.path(), at(1_000)).unwrap();
    assert_eq!((recovery.next_offset, log.start_offset(), log.next_offset()), (1_000, 1_000, 1_000));
    assert!(matches!(log.reader(999).next_record(), Err(LogError::OffsetGone { offset: 999, start: 1_000 })));
    drop(log);
    let (log, _) = Log::open(dir.path(), at(5)).unwrap();
    assert_eq!(log.append(&[b"a".as_slice(), b"b"]).unwrap(), AppendedRange { first: 1_000, next: 1_002 });
    drop(log);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!((recovery.next_offset, log.start_offset()), (1_002, 1_000));
    assert_eq!(log.read(1_001).unwrap().as_deref(), Some(b"b".as_slice()));
}
