//! The transaction simulator of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi; chapter "Transaction data simulator"): the
//! published process with our own random numbers, so its figures match in distribution and not row by row.
//!
//! Customers and terminals lie uniformly on a 100 x 100 square. A customer has a mean amount `m = U(5, 100)` with standard deviation `m / 2`, a mean
//! number of transactions a day `U(0, 4)`, and uses the terminals within radius 5. Per day: Poisson many transactions; the second of the day is
//! normal (mean 43,200, deviation 20,000) and those outside the day are dropped; the amount is normal, a negative one replaced by `U(0, 2m)`,
//! rounded to cents.
//!
//! Fraud, in this order, later scenarios overwriting earlier ones:
//! 1. every amount above 220;
//! 2. each day two terminals are compromised: all their transactions for 28 days;
//! 3. each day three customers are compromised for 14 days: a third of their transactions have their amount multiplied by five.

use std::collections::VecDeque;
use std::fmt::Write;
use std::vec::IntoIter;

#[cfg(test)]
use kilter_core::{DataType, Schema, Value};
use kilter_core::{EventTime, Span};
use kilter_stats::Rng;

/// The choices of the simulator; the defaults are the Handbook's.
#[derive(Clone, Debug, PartialEq)]
pub struct CardFraudOptions {
    pub seed: u64,
    pub customers: u32,
    pub terminals: u32,
    pub days: u32,
    /// Midnight before the first transaction.
    pub start: EventTime,
    /// How far a customer goes to a terminal, on a square of side 100.
    pub radius: f64,
}

impl Default for CardFraudOptions {
    fn default() -> CardFraudOptions {
        // 2018-04-01T00:00:00Z
        let start = EventTime(1_522_540_800_000_000);
        CardFraudOptions { seed: 7, customers: 5000, terminals: 10_000, days: 183, start, radius: 5.0 }
    }
}

/// One card transaction, with the truth about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CardTransaction {
    pub id: i64,
    pub time: EventTime,
    pub customer: i64,
    pub terminal: i64,
    /// In cents.
    pub amount: i64,
    /// Seconds since the first midnight.
    pub seconds: i64,
    /// 0: honest; 1 to 3: the fraud scenario.
    pub scenario: u8,
}

/// The columns, named as in the published data.
#[cfg(test)]
pub fn schema() -> Schema {
    use DataType::*;
    Schema::new([
        ("TRANSACTION_ID", Int64),
        ("TX_DATETIME", Timestamp),
        ("CUSTOMER_ID", Int64),
        ("TERMINAL_ID", Int64),
        ("TX_AMOUNT", Float64),
        ("TX_TIME_SECONDS", Int64),
        ("TX_TIME_DAYS", Int64),
        ("TX_FRAUD", Int64),
        ("TX_FRAUD_SCENARIO", Int64),
    ])
}

/// The first line of a CSV file.
pub const CSV_HEADER: &str =
    "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_TIME_SECONDS,TX_TIME_DAYS,TX_FRAUD,TX_FRAUD_SCENARIO";

/// The simulator: an iterator of transactions in time order, played one day at a time.
pub struct CardFraud {
    options: CardFraudOptions,
    customers: Vec<Customer>,
    frauds: Rng,
    /// Terminals and customers compromised on each of the last days, the latest last.
    bad_terminals: VecDeque<[u32; 2]>,
    bad_customers: VecDeque<[u32; 3]>,
    day: u32,
    next_id: i64,
    today: IntoIter<CardTransaction>,
}

struct Customer {
    rng: Rng,
    mean: f64,
    per_day: f64,
    terminals: Vec<u32>,
}

const SECONDS: i64 = 86_400;
const SIDE: f64 = 100.0;

impl CardFraud {
    pub fn new(options: CardFraudOptions) -> CardFraud {
        let root = Rng::seeded(options.seed);
        let mut places = root.fork(0);
        let terminals: Vec<(f64, f64)> = (0..options.terminals).map(|_| (SIDE * places.uniform(), SIDE * places.uniform())).collect();
        let grid = Grid::new(&terminals, options.radius);
        let customers = (0..options.customers)
            .map(|i| {
                let mut rng = root.fork(2 + u64::from(i));
                let place = (SIDE * rng.uniform(), SIDE * rng.uniform());
                let (mean, per_day) = (5.0 + 95.0 * rng.uniform(), 4.0 * rng.uniform());
                Customer { rng, mean, per_day, terminals: grid.within(&terminals, place, options.radius) }
            })
            .collect();
        let today = Vec::new().into_iter();
        let (bad_terminals, bad_customers) = (VecDeque::new(), VecDeque::new());
        CardFraud { options, customers, frauds: root.fork(1), bad_terminals, bad_customers, day: 0, next_id: 0, today }
    }

    fn play_day(&mut self) {
        let day = self.day;
        self.day += 1;
        self.compromise();
        let bad_terminals: Vec<u32> = sorted(self.bad_terminals.iter().flatten());
        let bad_customers: Vec<u32> = sorted(self.bad_customers.iter().flatten());
        let mut rows = Vec::new();
        for (number, customer) in self.customers.iter_mut().enumerate() {
            let bad = bad_customers.binary_search(&(number as u32)).is_ok();
            for _ in 0..customer.rng.poisson(customer.per_day) {
                let second = (43_200.0 + 20_000.0 * customer.rng.normal()) as i64;
                if second <= 0 || second >= SECONDS || customer.terminals.is_empty() {
                    continue;
                }
                let drawn = customer.mean + 0.5 * customer.mean * customer.rng.normal();
                let amount = if drawn < 0.0 { 2.0 * customer.mean * customer.rng.uniform() } else { drawn };
                let terminal = customer.terminals[customer.rng.below(customer.terminals.len() as u64) as usize];
                let mut amount = (100.0 * amount).round() as i64;
                let mut scenario = u8::from(amount > 22_000);
                if bad_terminals.binary_search(&terminal).is_ok() {
                    scenario = 2;
                }
                if bad && customer.rng.below(3) == 0 {
                    amount *= 5;
                    scenario = 3;
                }
                let seconds = i64::from(day) * SECONDS + second;
                let time = self.options.start + Span(seconds * Span::SECOND.0);
                rows.push(CardTransaction {
                    id: 0,
                    time,
                    customer: number as i64,
                    terminal: i64::from(terminal),
                    amount,
                    seconds,
                    scenario,
                });
            }
        }
        rows.sort_by_key(|row| row.seconds);
        for row in &mut rows {
            row.id = self.next_id;
            self.next_id += 1;
        }
        self.today = rows.into_iter();
    }

    /// Draws today's victims; those whose time is over go.
    fn compromise(&mut self) {
        let (terminals, customers) = (u64::from(self.options.terminals), u64::from(self.options.customers));
        // The day of the draw is the first of the 28 and 14 days.
        self.bad_terminals.push_back([(); 2].map(|()| self.frauds.below(terminals) as u32));
        self.bad_customers.push_back([(); 3].map(|()| self.frauds.below(customers) as u32));
        if self.bad_terminals.len() > 28 {
            self.bad_terminals.pop_front();
        }
        if self.bad_customers.len() > 14 {
            self.bad_customers.pop_front();
        }
    }
}

impl Iterator for CardFraud {
    type Item = CardTransaction;

    fn next(&mut self) -> Option<CardTransaction> {
        loop {
            if let Some(row) = self.today.next() {
                return Some(row);
            }
            if self.day >= self.options.days {
                return None;
            }
            self.play_day();
        }
    }
}

fn sorted<'a>(numbers: impl Iterator<Item = &'a u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.copied().collect();
    numbers.sort_unstable();
    numbers
}

/// Terminals by square of a grid as wide as the radius, so that only nine squares are searched.
struct Grid {
    cells: Vec<Vec<u32>>,
    per_side: usize,
    width: f64,
}

impl Grid {
    fn new(terminals: &[(f64, f64)], radius: f64) -> Grid {
        let per_side = ((SIDE / radius.max(0.01)) as usize).clamp(1, 1000);
        let mut grid = Grid { cells: vec![Vec::new(); per_side * per_side], per_side, width: SIDE / per_side as f64 };
        for (i, place) in terminals.iter().enumerate() {
            let (x, y) = grid.cell(*place);
            grid.cells[y * per_side + x].push(i as u32);
        }
        grid
    }

    fn cell(&self, place: (f64, f64)) -> (usize, usize) {
        let cell = |v: f64| ((v / self.width) as usize).min(self.per_side - 1);
        (cell(place.0), cell(place.1))
    }

    fn within(&self, terminals: &[(f64, f64)], place: (f64, f64), radius: f64) -> Vec<u32> {
        let (x, y) = self.cell(place);
        let near = |v: usize| v.saturating_sub(1)..(v + 2).min(self.per_side);
        let candidates = near(y).flat_map(|row| near(x).flat_map(move |column| &self.cells[row * self.per_side + column]));
        let distance2 = |t: &u32| {
            let (a, b) = terminals[*t as usize];
            (a - place.0) * (a - place.0) + (b - place.1) * (b - place.1)
        };
        sorted(candidates.filter(|t| distance2(t) < radius * radius))
    }
}

impl CardTransaction {
    /// The amount in units of the currency.
    #[cfg(test)]
    pub fn amount(&self) -> f64 {
        self.amount as f64 / 100.0
    }

    /// The row by [`schema`].
    #[cfg(test)]
    pub fn row(&self) -> Vec<Value> {
        vec![
            Value::Int(self.id),
            Value::Time(self.time),
            Value::Int(self.customer),
            Value::Int(self.terminal),
            Value::Float(self.amount()),
            Value::Int(self.seconds),
            Value::Int(self.seconds / SECONDS),
            Value::Int(i64::from(self.scenario > 0)),
            Value::Int(i64::from(self.scenario)),
        ]
    }

    /// Appends a line of CSV without its line break; [`CSV_HEADER`] names the cells.
    pub fn write_csv(&self, out: &mut String) {
        let CardTransaction { id, time, customer, terminal, amount, seconds, scenario } = self;
        let (day, fraud) = (seconds / SECONDS, u8::from(*scenario > 0));
        // Writing to a String cannot fail.
        let _ = write!(out, "{id},{time},{customer},{terminal},{}.{:02},{seconds},{day},{fraud},{scenario}", amount / 100, amount % 100);
    }

    /// Appends the transaction as a JSON object.
    #[cfg(test)]
    pub fn write_json(&self, out: &mut String) {
        let CardTransaction { id, time, customer, terminal, amount, seconds, scenario } = self;
        let (units, cents, day, fraud) = (amount / 100, amount % 100, seconds / SECONDS, u8::from(*scenario > 0));
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"{{"TRANSACTION_ID":{id},"TX_DATETIME":"{time}","CUSTOMER_ID":{customer},"TERMINAL_ID":{terminal},"TX_AMOUNT":{units}.{cents:02},"TX_TIME_SECONDS":{seconds},"TX_TIME_DAYS":{day},"TX_FRAUD":{fraud},"TX_FRAUD_SCENARIO":{scenario}}}"#
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_data_set_on_every_machine() {
        let mut text = String::new();
        CardFraud::new(CardFraudOptions { customers: 200, ..CardFraudOptions::default() })
            .take(10_000)
            .for_each(|row| row.write_csv(&mut text));
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 2_148_404_912_335_639_130);
    }

    #[test]
    fn frauds_are_as_frequent_as_published() {
        // Published: 1,754,155 transactions, of them 973, 9,077 and 4,631 fraudulent by scenario.
        let rows: Vec<CardTransaction> = CardFraud::new(CardFraudOptions::default()).collect();
        let count = |scenario: u8| rows.iter().filter(|row| row.scenario == scenario).count();
        assert!((1_690_000..1_820_000).contains(&rows.len()), "{}", rows.len());
        assert!((850..1_100).contains(&count(1)), "{}", count(1));
        assert!((8_000..10_200).contains(&count(2)), "{}", count(2));
        assert!((4_000..5_300).contains(&count(3)), "{}", count(3));
        let rate = 1.0 - count(0) as f64 / rows.len() as f64;
        assert!((0.0075..0.0095).contains(&rate), "{rate}");
        assert!(rows.is_sorted_by_key(|row| row.time));
        assert!(rows.iter().zip(0..).all(|(row, id)| row.id == id));
    }

    #[test]
    fn rows_csv_and_json_tell_the_same() {
        for row in CardFraud::new(CardFraudOptions { customers: 50, terminals: 2000, days: 20, ..CardFraudOptions::default() }) {
            let (mut json, mut csv) = (String::new(), String::new());
            row.write_json(&mut json);
            row.write_csv(&mut csv);
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            for (((name, value), cell), heading) in schema().names().zip(row.row()).zip(csv.split(',')).zip(CSV_HEADER.split(',')) {
                assert_eq!(name, heading);
                assert_eq!(json[name], serde_json::to_value(&value).expect("a value"), "{name}");
                let same = match &value {
                    Value::Float(x) => cell.parse() == Ok(*x),
                    other => cell == other.to_string(),
                };
                assert!(same, "{name}: {value} and {cell}");
            }
        }
    }

    #[test]
    fn the_grid_finds_what_a_full_search_finds() {
        let mut rng = Rng::seeded(1);
        let mut place = || (SIDE * rng.uniform(), SIDE * rng.uniform());
        let terminals: Vec<(f64, f64)> = (0..500).map(|_| place()).collect();
        for radius in [0.5, 5.0, 33.0, 200.0] {
            let grid = Grid::new(&terminals, radius);
            for _ in 0..50 {
                let (x, y) = place();
                let near = |(a, b): &(f64, f64)| (a - x) * (a - x) + (b - y) * (b - y) < radius * radius;
                let expected: Vec<u32> = (0..500).filter(|&t| near(&terminals[t as usize])).collect();
                assert_eq!(grid.within(&terminals, (x, y), radius), expected);
            }
        }
    }
}
