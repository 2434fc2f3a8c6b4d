use super::*;
use kilter_stats::Rng;

/// Keeps every value, and computes sums and variances from them anew at every cut.
struct Naive {
    delta: f64,
    most: usize,
    seen: u64,
    /// The oldest first.
    buckets: Vec<Vec<f64>>,
}

impl Naive {
    fn new(delta: f64, most: usize) -> Self {
        Naive { delta, most, seen: 0, buckets: Vec::new() }
    }

    fn add(&mut self, value: f64) -> bool {
        self.seen += 1;
        self.buckets.push(vec![value]);
        let mut size = 1;
        while self.buckets.iter().filter(|bucket| bucket.len() == size).count() > self.most {
            let at = self.buckets.iter().position(|bucket| bucket.len() == size).unwrap();
            let newer = self.buckets.remove(at + 1);
            self.buckets[at].extend(newer);
            size *= 2;
        }
        let mut changed = false;
        while self.seen.is_multiple_of(32) && (1..self.buckets.len()).any(|cut| self.differ(cut)) {
            self.buckets.remove(0);
            changed = true;
        }
        changed
    }

    /// The formula of the paper on the values themselves.
    fn differ(&self, cut: usize) -> bool {
        let all = self.window();
        let (older, newer) = all.split_at(self.buckets[..cut].iter().map(Vec::len).sum());
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let middle = mean(&all);
        let variance = all.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / all.len() as f64;
        let (n, n0, n1) = (all.len() as f64, older.len() as f64, newer.len() as f64);
        let m = 1.0 / (1.0 / n0 + 1.0 / n1);
        let log = (2.0 / (self.delta / n.ln())).ln();
        let bound = (2.0 / m * variance * log).sqrt() + 2.0 / (3.0 * m) * log;
        n0 >= 5.0 && n1 >= 5.0 && (mean(older) - mean(newer)).abs() > bound
    }

    fn window(&self) -> Vec<f64> {
        self.buckets.concat()
    }
}

/// Levels that change at random moments, as 0 and 1 or as numbers between.
fn stream(seed: u64, length: usize, binary: bool) -> Vec<f64> {
    let mut rng = Rng::seeded(seed);
    let mut level = rng.uniform();
    (0..length)
        .map(|_| {
            if rng.bernoulli(0.004) {
                level = rng.uniform();
            }
            if binary { f64::from(u8::from(rng.bernoulli(level))) } else { 0.8 * level + 0.2 * rng.uniform() }
        })
        .collect()
}

fn check_against_naive(most: usize, length: usize) {
    let mut changes = 0;
    for seed in 0..12 {
        let delta = [0.002, 0.05, 0.3][seed as usize % 3];
        let (mut adwin, mut naive) = (Adwin::with_buckets(delta, most), Naive::new(delta, most));
        for (at, value) in stream(seed, length, seed % 2 == 0).into_iter().enumerate() {
            let (found, expected) = (adwin.add(value), naive.add(value));
            assert_eq!(found.is_some(), expected, "seed {seed}, value {at}");
            changes += usize::from(expected);
            if at % 32 != 31 {
                continue;
            }
            let window = naive.window();
            assert_eq!(adwin.width(), window.len() as f64, "seed {seed}, value {at}");
            assert!((adwin.mean() - window.iter().sum::<f64>() / window.len() as f64).abs() < 1e-9);
        }
    }
    assert!(changes > 10, "{changes} changes are too few to tell anything");
}

#[test]
fn it_cuts_where_a_window_of_all_values_in_the_same_buckets_cuts() {
    check_against_naive(MOST, 1_500);
}

#[test]
fn with_a_bucket_for_each_value_it_is_the_window_that_looks_at_every_cut() {
    check_against_naive(usize::MAX, 450);
}

#[test]
fn a_window_of_a_million_values_is_less_than_a_hundred_buckets() {
    let mut adwin = Adwin::new(0.002);
    for at in 0..1_000_000u32 {
        assert_eq!(adwin.add(f64::from(at % 2)), None);
    }
    assert!(adwin.buckets.len() < 100 && adwin.width() == 1e6 && (adwin.mean() - 0.5).abs() < 1e-12, "{}", adwin.buckets.len());
}

#[test]
fn a_steady_stream_is_rarely_taken_for_a_changed_one() {
    // The bound is for any one look; over all looks of all streams the share stays below delta by far, since it holds for the worst of streams.
    let (mut looks, mut alarms) = (0, 0);
    for seed in 0..40 {
        let (mut rng, mut adwin) = (Rng::seeded(seed), Adwin::new(0.05));
        for _ in 0..20_000 {
            alarms += usize::from(adwin.add(f64::from(u8::from(rng.bernoulli(0.3)))).is_some());
        }
        looks += 20_000 / 32;
    }
    assert!((alarms as f64) < 0.05 * looks as f64 / 20.0, "{alarms} alarms in {looks} looks");
}

#[test]
fn a_change_is_found_as_soon_as_the_bound_says() {
    // 2000 values of rate 0.2, then of 0.5: by the formula, with n0 = 2000 and the window's variance, this many are enough on average.
    let needed = (1..2_000).find(|&n1| {
        let (n0, n1) = (2_000.0, f64::from(n1));
        let (n, inverse) = (n0 + n1, 1.0 / n0 + 1.0 / n1);
        let mean = (0.2 * n0 + 0.5 * n1) / n;
        let log = (2.0 * f64::ln(n) / 0.002).ln();
        0.3 > (2.0 * inverse * mean * (1.0 - mean) * log).sqrt() + 2.0 / 3.0 * inverse * log
    });
    let needed = f64::from(needed.unwrap());
    let mut delays = Vec::new();
    for seed in 0..40 {
        let (mut rng, mut adwin) = (Rng::seeded(100 + seed), Adwin::new(0.002));
        (0..2_000).for_each(|_| {
            adwin.add(f64::from(u8::from(rng.bernoulli(0.2))));
        });
        let width = adwin.width();
        let found = (1..2_000).find(|_| adwin.add(f64::from(u8::from(rng.bernoulli(0.5)))) == Some(Change::Rise));
        delays.push(f64::from(found.unwrap()));
        // The old values go, but for a remainder that cannot be told from the new ones.
        (0..1_000).for_each(|_| {
            adwin.add(f64::from(u8::from(rng.bernoulli(0.5))));
        });
        assert!(width > 1_500.0 && adwin.width() < 1_600.0 && (adwin.mean() - 0.5).abs() < 0.08, "{} {}", adwin.width(), adwin.mean());
    }
    let mean = delays.iter().sum::<f64>() / delays.len() as f64;
    assert!((0.5 * needed..needed + 64.0).contains(&mean), "{mean} values on average, {needed} by the bound");
}

#[test]
fn a_fall_is_told_from_a_rise_and_a_saved_window_goes_on_the_same() {
    let values = [vec![1.0; 500], vec![0.0; 500], vec![1.0; 300]].concat();
    let mut adwin = Adwin::new(0.002);
    let mut changes = Vec::new();
    for &value in &values {
        changes.extend(adwin.add(value));
        let mut body = Writer::default();
        adwin.write(&mut body);
        let back = crate::format::tests::read_back(body, |from| Adwin::read(from, 0.002)).unwrap();
        assert_eq!(back, adwin);
        adwin = back;
    }
    assert_eq!((changes[0], *changes.last().unwrap()), (Change::Fall, Change::Rise));
}
