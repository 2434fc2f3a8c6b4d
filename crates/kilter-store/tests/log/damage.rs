use crate::{all, last_segment, open, segments, small};
use kilter_store::log::{Log, LogError, LogOptions, OnDamage};
use std::fs;
use std::path::Path;

fn three_records(dir: &Path) -> Vec<u8> {
    let log = open(dir);
    log.append(&["first", "second", "third"]).unwrap();
    drop(log);
    fs::read(last_segment(dir)).unwrap()
}

// Header 28, then 12 + 5, 12 + 6, 12 + 5.
const ENDS: [usize; 4] = [28, 45, 63, 80];

#[test]
fn a_tail_cut_anywhere_leaves_the_whole_records_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let good = three_records(dir.path());
    assert_eq!(good.len(), 80);
    for cut in 0..=80 {
        fs::write(last_segment(dir.path()), &good[..cut]).unwrap();
        let (log, recovery) = Log::open(dir.path(), LogOptions::default()).unwrap();
        let whole = ENDS.iter().filter(|e| **e <= cut).count().saturating_sub(1);
        assert_eq!(recovery.next_offset, whole as u64, "cut at {cut}");
        assert_eq!(all(&log).len(), whole);
        assert_eq!(recovery.truncated_reason.is_none(), ENDS.contains(&cut), "cut at {cut}");
        assert_eq!(log.append(&["again"]).unwrap().first, whole as u64);
        assert_eq!(log.read(whole as u64).unwrap().unwrap(), &b"again"[..]);
    }
}

#[test]
fn a_tail_of_zeros_or_garbage_is_cut_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let good = three_records(dir.path());
    for (tail, reason) in [(vec![0; 5000], "zeros"), (vec![0xA5; 5000], "offset"), (vec![b' '; 7], "incomplete")] {
        fs::write(last_segment(dir.path()), [good.clone(), tail.clone()].concat()).unwrap();
        let (log, recovery) = Log::open(dir.path(), LogOptions::default()).unwrap();
        assert_eq!((recovery.next_offset, recovery.truncated_bytes), (3, tail.len() as u64));
        let said = recovery.truncated_reason.unwrap();
        assert!(said.contains(reason), "{said}");
        assert_eq!(all(&log).len(), 3);
    }
}

#[test]
fn a_broken_last_record_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = three_records(dir.path());
    bytes[79] ^= 1;
    fs::write(last_segment(dir.path()), &bytes).unwrap();
    let (_, recovery) = Log::open(dir.path(), LogOptions::default()).unwrap();
    assert_eq!((recovery.next_offset, recovery.truncated_bytes), (2, 17));
    assert!(recovery.truncated_reason.unwrap().contains("checksum"));
}

#[test]
fn damage_before_valid_records_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let good = three_records(dir.path());
    for byte in 28..63 {
        let mut bad = good.clone();
        bad[byte] ^= 0xFF;
        fs::write(last_segment(dir.path()), &bad).unwrap();
        let error = Log::open(dir.path(), LogOptions::default()).unwrap_err();
        let LogError::Corrupt { position, offset, ref detail, .. } = error else { panic!("byte {byte}: {error}") };
        let record = if byte < 45 { (28, 0) } else { (45, 1) };
        assert_eq!((position, offset), record, "byte {byte}");
        assert!(detail.contains("valid data follow at byte"), "{detail}");
        assert!(error.to_string().contains("hint: valid data exist after the damage"));
        assert_eq!(fs::read(last_segment(dir.path())).unwrap(), bad);
    }
}

#[test]
fn damage_can_be_set_aside_by_choice() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = three_records(dir.path());
    bytes[50] ^= 1;
    fs::write(last_segment(dir.path()), &bytes).unwrap();
    let options = LogOptions { on_damage: OnDamage::SetAside, ..LogOptions::default() };
    let (log, recovery) = Log::open(dir.path(), options).unwrap();
    assert_eq!((recovery.next_offset, recovery.truncated_bytes), (1, 35));
    assert_eq!(all(&log), [(0, b"first".to_vec())]);
    let aside = dir.path().join("00000000000000000000.klog.45.damaged");
    assert_eq!(fs::read(aside).unwrap(), &bytes[45..]);
}

#[test]
fn a_damaged_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = three_records(dir.path());
    bytes[3] ^= 1;
    fs::write(last_segment(dir.path()), &bytes).unwrap();
    let error = Log::open(dir.path(), LogOptions::default()).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { position: 0, .. }), "{error}");
}

fn several_segments(dir: &Path) {
    let (log, _) = Log::open(dir, small()).unwrap();
    for i in 0..100u8 {
        log.append(&[[i; 100]]).unwrap();
    }
    drop(log);
    assert!(segments(dir).len() >= 5);
}

#[test]
fn a_missing_or_cut_middle_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    several_segments(dir.path());
    let middle = segments(dir.path())[2].clone();
    let good = fs::read(&middle).unwrap();

    fs::remove_file(&middle).unwrap();
    let error = Log::open(dir.path(), small()).unwrap_err().to_string();
    assert!(error.contains("a segment file was removed"), "{error}");

    for keep in [0, 10, 28, good.len() / 2, good.len() - 1] {
        fs::write(&middle, &good[..keep]).unwrap();
        let error = Log::open(dir.path(), small()).unwrap_err();
        assert!(matches!(&error, LogError::Corrupt { segment, .. } if *segment == middle), "{error}");
    }
    fs::write(&middle, &good).unwrap();
    assert_eq!(all(&Log::open(dir.path(), small()).unwrap().0).len(), 100);
}

#[test]
fn a_bad_byte_in_an_older_segment_is_met_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    several_segments(dir.path());
    let middle = segments(dir.path())[2].clone();
    let mut bytes = fs::read(&middle).unwrap();
    bytes[28 + 112 * 3 + 50] ^= 1;
    fs::write(&middle, &bytes).unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let read: Vec<_> = log.reader(0).take_while(Result::is_ok).collect();
    let bad = read.len() as u64;
    let error = log.reader(bad).next().unwrap().unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { segment, position: 364, offset, .. } if *segment == middle && *offset == bad), "{error}");
    assert_eq!(log.reader(bad + 20).count() as u64, 100 - bad - 20);
}

#[test]
fn a_damaged_index_only_costs_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    {
        let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
        for i in 0..1_500u32 {
            log.append(&[i.to_le_bytes().repeat(250)]).unwrap();
        }
    }
    let first = segments(dir.path())[0].clone();
    let mut bytes = fs::read(&first).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let (log, _) = Log::open(dir.path(), options).unwrap();
    assert_eq!(log.read(900).unwrap().unwrap()[..4], 900u32.to_le_bytes());
}

#[test]
fn a_kill_while_the_next_segment_is_made_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    several_segments(dir.path());
    let last = last_segment(dir.path());
    let first: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    for left in [None, Some(0), Some(28)] {
        match left {
            None => fs::remove_file(&last).unwrap(),
            Some(zeros) => fs::write(&last, vec![0; zeros]).unwrap(),
        }
        let (log, recovery) = Log::open(dir.path(), small()).unwrap();
        assert_eq!(recovery.next_offset, first);
        log.append(&["goes on"]).unwrap();
        assert_eq!(log.read(first).unwrap().unwrap(), &b"goes on"[..]);
        assert_eq!(all(&log).len() as u64, first + 1);
    }
}
