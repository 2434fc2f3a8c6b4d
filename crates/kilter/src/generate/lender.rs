//! A synthetic lender: bank accounts, loan applications, and how each loan ended.
//!
//! The risk lives in *recent* behaviour: a person who starts to empty the account applies for a loan within hours, and features as of last
//! midnight have not seen it. Amounts are whole cents. All rates are per customer and day, `N` is a standard normal draw, `[x]` is 1 when x holds.
//!
//! **Customer** (drawn once): risk `r = N`; monthly salary `S = 2100 exp(0.45 N)`; liveliness `v = exp(0.3 N)`; first balance
//! `S (0.3 + 0.7 U) exp(-0.3 r)`; a payday every 14 days and a rent day every 28, each at a place of its own in the calendar. Sixty days are lived
//! before the first event, so that the stream starts in balance.
//!
//! **Work.** A job is lost with probability `0.0015 exp(0.4 r)` a day and found again after an exponential time of mean 35 days. The recession
//! raises the first to `0.020 exp(0.2 r)` for ten days and to `0.003 exp(0.4 r)` after them, and the second to 60 days; salaries fall by 15 %.
//!
//! **Everyday life.** `Poisson(0.52 a v w)` bookings, `a` the activity option, `w` 1.25 at weekends, 0.75 in the recession. Each is a withdrawal with
//! probability `min(0.5, 0.07 exp(0.35 r) g)` (`g` 1, in the recession 3.5: people hoard cash), a transfer with probability 0.12, else spending.
//! Spending has mean `0.62 S / 30` per `0.52 a v`, a log-normal shape (sigma 0.8) and in 2 % of cases a Pareto tail (shape 1.8); it shrinks
//! with the balance. An overdrawn booking costs a fee of 9.50 with probability 0.6. Savings even out balances far from nought.
//!
//! **Harmless bursts** (holidays; in the recession hoarding): rate 0.006 (0.055); 2 + Poisson(2) withdrawals within hours, no application.
//!
//! **Stress.** An episode starts with rate `0.0105 exp(0.45 r) (1 + 2 [no job]) (1 + 0.5 [overdrawn])`, mostly in the afternoon and evening:
//! 3 + Poisson(3) withdrawals, exponential gaps of mean 45 minutes, 3 to 9 % of `S` each; with probability 0.45 a second such burst 12 to 48 hours
//! later. With probability 0.9 the customer applies for a loan 45 minutes and an exponential time (mean 20 hours) after the start; at night most wait
//! for the morning. Stress at time t is `s = exp(-(t - start) / 60 h)`.
//!
//! **Calm applications** come with rate 0.052. Amount `S exp(0.5 N - 0.7)`, in stress half of that, in tens; months 3, 6, 12 or 24;
//! payment `amount (1 + 0.015 months) / months`; burden `b = payment / S`.
//!
//! **Default** is a coin with log-odds
//! `-3.15 + 0.45 r + 2.2 s + 1.0 [no job] + 0.9 [overdrawn] + 2.0 (b - 0.12)` before the recession and
//! `-2.95 + 0.45 r + 0.9 s + 1.7 [no job] + 1.3 [overdrawn] + 7.0 (b - 0.12)` in it: who empties the account says less, who cannot pay says more.
//! It shows 5 to 20 days after the application and loses 35 to 90 % of the amount; a loan that holds is confirmed after 21 days.
//! Loans are not paid out into the accounts: every application has an outcome, whatever a policy would have decided.

use std::collections::VecDeque;
use std::fmt::Write;
use std::vec::IntoIter;

#[cfg(test)]
use kilter_core::{DataType, Schema, Value};
use kilter_core::{EventTime, Span};
use kilter_stats::Rng;

/// The choices of a synthetic lender.
#[derive(Clone, Debug, PartialEq)]
pub struct LenderOptions {
    pub seed: u64,
    /// Number of accounts; events, applications and defaults grow with it.
    pub customers: u32,
    /// Midnight before the first event.
    pub start: EventTime,
    /// Days to play.
    pub days: u32,
    /// The day (from 0) on which the recession begins; at or beyond `days` it never does.
    pub recession_day: u32,
    /// Multiplies the everyday bookings per customer, amounts shrinking in turn.
    pub activity: f64,
}

impl Default for LenderOptions {
    fn default() -> LenderOptions {
        // 2025-01-01T00:00:00Z
        LenderOptions { seed: 7, customers: 4000, start: EventTime(1_735_689_600_000_000), days: 150, recession_day: 90, activity: 1.0 }
    }
}

/// An amount in whole cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cents(pub i64);

/// What a booking was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Salary,
    Spending,
    Withdrawal,
    Rent,
    Transfer,
    Fee,
}

/// One event of one of the three sources.
#[derive(Clone, Debug, PartialEq)]
pub struct LenderEvent {
    pub time: EventTime,
    pub account: i64,
    pub what: What,
}

/// The rest of an event, by source.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A booking; `amount` is positive for income; `balance` is the one after it.
    Transaction {
        number: u64,
        amount: Cents,
        kind: Kind,
        balance: Cents,
    },
    Application {
        number: u64,
        amount: Cents,
        months: u32,
        payment: Cents,
    },
    /// How the loan of an application ended.
    Repayment {
        application: u64,
        defaulted: bool,
        lost: Cents,
    },
}

/// The sources by name, in the order in which the demo declares them.
pub const SOURCES: [&str; 3] = ["transactions", "applications", "repayments"];

/// The columns of a source, in the order of [`LenderEvent::row`]; none for another name.
#[cfg(test)]
pub fn schema(source: &str) -> Option<Schema> {
    use DataType::*;
    match source {
        "transactions" => Some(Schema::new([
            ("transaction_id", String),
            ("account_id", Int64),
            ("booked_at", Timestamp),
            ("amount", Float64),
            ("kind", String),
            ("balance", Float64),
        ])),
        "applications" => Some(Schema::new([
            ("application_id", String),
            ("account_id", Int64),
            ("applied_at", Timestamp),
            ("amount", Float64),
            ("months", Int64),
            ("payment", Float64),
        ])),
        "repayments" => Some(Schema::new([
            ("application_id", String),
            ("account_id", Int64),
            ("observed_at", Timestamp),
            ("defaulted", Bool),
            ("lost", Float64),
        ])),
        _ => None,
    }
}

/// A lender at play: an iterator of events in time order.
///
/// It plays one day at a time; what it holds grows with the customers and with the loans still open, not with the days.
pub struct Lender {
    options: LenderOptions,
    customers: Vec<Customer>,
    day: i32,
    today: IntoIter<LenderEvent>,
    /// Outcomes to come, by day from `day` on.
    outcomes: VecDeque<Vec<LenderEvent>>,
    transactions: u64,
    applications: u64,
}

struct Customer {
    rng: Rng,
    account: i64,
    risk: f64,
    salary: f64,
    liveliness: f64,
    rent: f64,
    payday: i32,
    rent_day: i32,
    balance: f64,
    /// Day on which a new job begins; none: at work.
    jobless_until: Option<i32>,
    stress_since: Option<i64>,
    /// What is to come beyond today, unordered.
    planned: Vec<Planned>,
}

/// What a customer will do, when (microseconds since 1970).
#[derive(Clone, Copy, Debug)]
struct Planned {
    at: i64,
    act: Act,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Book(Kind, f64),
    Apply,
    /// Stress begins.
    Despair,
}

const HOUR: f64 = 3_600e6;
const DAY: i64 = Span::DAY.0;
/// Days lived before the first event.
const BEFORE: i32 = 60;
/// Days after which a loan that holds is confirmed; a default shows earlier.
const CONFIRMED_DAYS: i64 = 21;

impl Lender {
    pub fn new(options: LenderOptions) -> Lender {
        let root = Rng::seeded(options.seed);
        let customers = (0..options.customers).map(|i| Customer::new(root.fork(u64::from(i)), i64::from(i))).collect();
        let today = Vec::new().into_iter();
        let mut lender = Lender { options, customers, day: -BEFORE, today, outcomes: VecDeque::new(), transactions: 0, applications: 0 };
        // Balances, jobs and worries find their level before anyone looks.
        while lender.day < 0 {
            lender.play_day();
        }
        lender.today = Vec::new().into_iter();
        lender.outcomes.clear();
        (lender.transactions, lender.applications) = (0, 0);
        lender
    }

    fn play_day(&mut self) {
        let day = self.day;
        self.day += 1;
        let midnight = self.options.start.0 + i64::from(day) * DAY;
        let mut events = Vec::with_capacity(self.customers.len() + self.customers.len() / 2);
        // Outcomes by the position of their application in `events`: numbers are known only once the day is in order.
        let mut decided = Vec::new();
        let climate = Climate::of(&self.options, day);
        let mut plan = Vec::new();
        for customer in &mut self.customers {
            customer.plan_day(day, midnight, &climate, &mut plan);
            customer.live(midnight + DAY, &climate, &mut plan, &mut events, &mut decided);
        }
        let mut order: Vec<(i64, u32)> = events.iter().enumerate().map(|(i, e): (usize, &LenderEvent)| (e.time.0, i as u32)).collect();
        order.sort_unstable();
        let mut applications = vec![0; decided.len()];
        let mut sorted = Vec::with_capacity(events.len() + 512);
        let mut due = self.outcomes.pop_front().unwrap_or_default();
        due.sort_by_key(|e| e.time);
        let mut due = due.into_iter().peekable();
        for (time, at) in order {
            while let Some(outcome) = due.next_if(|e| e.time.0 <= time) {
                sorted.push(outcome);
            }
            let mut event = events[at as usize].clone();
            match &mut event.what {
                What::Transaction { number, .. } => {
                    self.transactions += 1;
                    *number = self.transactions;
                }
                // Until here the number is the position in `decided`.
                What::Application { number, .. } => {
                    self.applications += 1;
                    applications[*number as usize] = self.applications;
                    *number = self.applications;
                }
                What::Repayment { .. } => {}
            }
            sorted.push(event);
        }
        sorted.extend(due);
        for (mut outcome, number) in decided.into_iter().zip(applications) {
            if let What::Repayment { application, .. } = &mut outcome.what {
                *application = number;
            }
            let later = usize::try_from((outcome.time.0 - midnight) / DAY - 1).unwrap_or(0);
            if self.outcomes.len() <= later {
                self.outcomes.resize_with(later + 1, Vec::new);
            }
            self.outcomes[later].push(outcome);
        }
        self.today = sorted.into_iter();
    }
}

impl Iterator for Lender {
    type Item = LenderEvent;

    fn next(&mut self) -> Option<LenderEvent> {
        loop {
            if let Some(event) = self.today.next() {
                return Some(event);
            }
            if i64::from(self.day) >= i64::from(self.options.days) {
                return None;
            }
            self.play_day();
        }
    }
}

/// What the economy and the calendar do to everyone on one day.
struct Climate {
    recession: bool,
    job_loss: f64,
    job_loss_risk: f64,
    job_search_days: f64,
    pay: f64,
    bookings: f64,
    activity: f64,
    hoarding: f64,
    bursts: f64,
}

impl Climate {
    fn of(options: &LenderOptions, day: i32) -> Climate {
        let since = i64::from(day) - i64::from(options.recession_day);
        let (recession, onset) = (since >= 0, (0..10).contains(&since));
        // 1970-01-01 was a Thursday.
        let weekday = (options.start.0.div_euclid(DAY) + i64::from(day) + 3).rem_euclid(7);
        let weekend = if weekday >= 5 { 1.25 } else { 1.0 };
        Climate {
            recession,
            job_loss: if onset {
                0.020
            } else if recession {
                0.003
            } else {
                0.0015
            },
            job_loss_risk: if onset { 0.2 } else { 0.4 },
            job_search_days: if recession { 60.0 } else { 35.0 },
            pay: if recession { 0.85 } else { 1.0 },
            bookings: weekend * if recession { 0.75 } else { 1.0 },
            activity: options.activity.max(0.0),
            hoarding: if recession { 3.5 } else { 1.0 },
            bursts: if recession { 0.055 } else { 0.006 },
        }
    }
}

/// Everyday bookings of an average customer a day.
const BOOKINGS: f64 = 0.52;

impl Customer {
    fn new(mut rng: Rng, number: i64) -> Customer {
        let risk = rng.normal();
        let salary = 210_000.0 * exp(0.45 * rng.normal());
        let liveliness = exp(0.3 * rng.normal());
        let balance = salary * (0.3 + 0.7 * rng.uniform()) * exp(-0.3 * risk);
        let rent = salary * (0.24 + 0.1 * rng.uniform());
        let (payday, rent_day) = (rng.below(14) as i32, rng.below(28) as i32);
        let balance = balance.round();
        let planned = Vec::new();
        Customer {
            rng,
            account: 100_001 + number,
            risk,
            salary,
            liveliness,
            rent,
            payday,
            rent_day,
            balance,
            jobless_until: None,
            stress_since: None,
            planned,
        }
    }

    /// Draws what today brings; `plan` is left holding all that happens today, unordered.
    fn plan_day(&mut self, day: i32, midnight: i64, climate: &Climate, plan: &mut Vec<Planned>) {
        plan.clear();
        let end = midnight + DAY;
        let mut at = 0;
        while let Some(planned) = self.planned.get(at) {
            if planned.at < end {
                plan.push(self.planned.swap_remove(at));
            } else {
                at += 1;
            }
        }
        self.change_jobs(day, climate);
        self.plan_bills(day, midnight, climate, plan);
        self.plan_bookings(midnight, climate, plan);
        if self.rng.bernoulli(climate.bursts) {
            let start = midnight + self.hour(15.0, 4.0);
            let withdrawals = 2 + self.rng.poisson(2.0);
            self.plan_burst(start, withdrawals, end, plan);
        }
        let jobless = f64::from(u8::from(self.jobless_until.is_some()));
        let overdrawn = f64::from(u8::from(self.balance < 0.0));
        if self.rng.bernoulli(0.0105 * exp(0.45 * self.risk) * (1.0 + 2.0 * jobless) * (1.0 + 0.5 * overdrawn)) {
            self.plan_stress(midnight, end, plan);
        }
        if self.rng.bernoulli(0.052) {
            let at = midnight + self.hour(14.0, 4.0);
            plan.push(Planned { at, act: Act::Apply });
        }
    }

    fn change_jobs(&mut self, day: i32, climate: &Climate) {
        match self.jobless_until {
            Some(until) if day >= until => self.jobless_until = None,
            Some(_) => {}
            None if self.rng.bernoulli(climate.job_loss * exp(climate.job_loss_risk * self.risk)) => {
                let days = self.rng.exponential(1.0 / climate.job_search_days);
                self.jobless_until = Some(day + 1 + days.min(10_000.0) as i32);
            }
            None => {}
        }
    }

    fn plan_bills(&mut self, day: i32, midnight: i64, climate: &Climate, plan: &mut Vec<Planned>) {
        if (day + self.payday).rem_euclid(14) == 0 {
            if self.jobless_until.is_none() {
                let pay = 0.5 * self.salary * climate.pay * (1.0 + 0.03 * self.rng.normal());
                plan.push(Planned { at: midnight + self.hour(7.0, 0.8), act: Act::Book(Kind::Salary, pay.max(0.0)) });
            }
            let spare = self.balance - self.salary;
            if spare > 0.6 * self.salary {
                plan.push(Planned { at: midnight + self.hour(18.0, 2.0), act: Act::Book(Kind::Transfer, -0.5 * spare) });
            }
        }
        if (day + self.rent_day).rem_euclid(28) == 0 {
            plan.push(Planned { at: midnight + self.hour(10.0, 1.0), act: Act::Book(Kind::Rent, -self.rent) });
        }
        if self.balance < -0.5 * self.salary && self.rng.bernoulli(0.25) {
            plan.push(Planned { at: midnight + self.hour(13.0, 3.0), act: Act::Book(Kind::Transfer, -0.8 * self.balance) });
        }
    }

    fn plan_bookings(&mut self, midnight: i64, climate: &Climate, plan: &mut Vec<Planned>) {
        let usual = BOOKINGS * climate.activity * self.liveliness;
        let withdrawing = (0.07 * exp(0.35 * self.risk) * climate.hoarding).min(0.5);
        for _ in 0..self.rng.poisson(usual * climate.bookings) {
            let at = midnight + self.hour(14.5, 4.2);
            let what = self.rng.uniform();
            let act = if what < withdrawing {
                Act::Book(Kind::Withdrawal, -tens(0.035 * self.salary * exp(0.5 * self.rng.normal()) / climate.activity))
            } else if what < withdrawing + 0.12 {
                let amount = 0.05 * self.salary * exp(0.7 * self.rng.normal()) / climate.activity;
                Act::Book(Kind::Transfer, if self.rng.bernoulli(0.5) { amount } else { -amount })
            } else {
                let thrift = (0.55 + 0.9 * self.balance / self.salary).clamp(0.25, 1.6);
                let mean = 0.62 * self.salary / 30.0 / usual * thrift;
                let tail = if self.rng.bernoulli(0.02) { self.rng.pareto(1.5, 1.8).min(40.0) } else { 1.0 };
                // The mean of exp(0.8 N) is exp(0.32).
                Act::Book(Kind::Spending, -mean * exp(0.8 * self.rng.normal() - 0.32) * tail)
            };
            plan.push(Planned { at, act });
        }
    }

    /// Withdrawals in a row from `start` on.
    fn plan_burst(&mut self, start: i64, withdrawals: u64, end: i64, plan: &mut Vec<Planned>) {
        let mut at = start;
        for _ in 0..withdrawals {
            let amount = tens(self.salary * (0.03 + 0.06 * self.rng.uniform()));
            self.schedule(at, Act::Book(Kind::Withdrawal, -amount), end, plan);
            at += (self.rng.exponential(1.0 / 0.75) * HOUR) as i64;
        }
    }

    fn plan_stress(&mut self, midnight: i64, end: i64, plan: &mut Vec<Planned>) {
        let start = midnight + self.hour(16.0, 4.5);
        self.schedule(start, Act::Despair, end, plan);
        let withdrawals = 3 + self.rng.poisson(3.0);
        self.plan_burst(start, withdrawals, end, plan);
        if self.rng.bernoulli(0.45) {
            let again = start + ((12.0 + 36.0 * self.rng.uniform()) * HOUR) as i64;
            let withdrawals = 3 + self.rng.poisson(3.0);
            self.plan_burst(again, withdrawals, end, plan);
        }
        if self.rng.bernoulli(0.9) {
            let mut at = start + ((0.75 + self.rng.exponential(1.0 / STRESS_LAG_HOURS)) * HOUR) as i64;
            let hour = (at - midnight).rem_euclid(DAY) as f64 / HOUR;
            if hour < 6.0 && self.rng.bernoulli(0.8) {
                at += ((6.0 - hour + self.rng.exponential(0.5)) * HOUR) as i64;
            }
            self.schedule(at, Act::Apply, end, plan);
        }
    }

    fn schedule(&mut self, at: i64, act: Act, end: i64, plan: &mut Vec<Planned>) {
        let to = if at < end { plan } else { &mut self.planned };
        to.push(Planned { at, act });
    }

    /// A time of day around `mean` hours, in microseconds, within the day; one in thirty at any hour.
    fn hour(&mut self, mean: f64, deviation: f64) -> i64 {
        let hour = if self.rng.bernoulli(1.0 / 30.0) { 24.0 * self.rng.uniform() } else { mean + deviation * self.rng.normal() };
        ((hour * HOUR) as i64).rem_euclid(DAY)
    }

    /// Lives through the day's plan in order and writes down what the bank sees of it.
    fn live(&mut self, end: i64, climate: &Climate, plan: &mut [Planned], events: &mut Vec<LenderEvent>, decided: &mut Vec<LenderEvent>) {
        plan.sort_by_key(|planned| planned.at);
        for at in 0..plan.len() {
            let Planned { at: time, act } = plan[at];
            match act {
                Act::Despair => self.stress_since = Some(time),
                Act::Apply => self.apply(time, climate, events, decided),
                Act::Book(kind, amount) => {
                    self.book(time, kind, amount, events);
                    if amount < 0.0 && self.balance < 0.0 && self.rng.bernoulli(0.6) {
                        let next = plan.get(at + 1).map_or(end - 1, |planned| planned.at);
                        let delay = 1_000_000 * (1 + self.rng.below(40) as i64);
                        self.book((time + delay).min(next), Kind::Fee, -950.0, events);
                    }
                }
            }
        }
    }

    fn book(&mut self, time: i64, kind: Kind, amount: f64, events: &mut Vec<LenderEvent>) {
        let cents = amount.round();
        if cents == 0.0 {
            return;
        }
        self.balance += cents;
        let what = What::Transaction { number: 0, amount: Cents(cents as i64), kind, balance: Cents(self.balance as i64) };
        events.push(LenderEvent { time: EventTime(time), account: self.account, what });
    }

    fn apply(&mut self, time: i64, climate: &Climate, events: &mut Vec<LenderEvent>, decided: &mut Vec<LenderEvent>) {
        let stress = self.stress_since.map_or(0.0, |since| exp((since - time) as f64 / (60.0 * HOUR)));
        let size = if stress > 0.3 { 0.5 } else { 1.0 };
        let amount = tens(size * self.salary * exp(0.5 * self.rng.normal() - 0.7)).max(10_000.0);
        let months = [3, 6, 12, 24][self.rng.below(4) as usize];
        let payment = (amount * (1.0 + 0.015 * f64::from(months)) / f64::from(months)).round();
        let number = decided.len() as u64;
        let what = What::Application { number, amount: Cents(amount as i64), months, payment: Cents(payment as i64) };
        events.push(LenderEvent { time: EventTime(time), account: self.account, what });

        let burden = payment / self.salary - 0.12;
        let jobless = f64::from(u8::from(self.jobless_until.is_some()));
        let overdrawn = f64::from(u8::from(self.balance < 0.0));
        let log_odds = if climate.recession {
            -2.95 + 0.45 * self.risk + 0.9 * stress + 1.7 * jobless + 1.3 * overdrawn + 7.0 * burden
        } else {
            -3.15 + 0.45 * self.risk + 2.2 * stress + 1.0 * jobless + 0.9 * overdrawn + 2.0 * burden
        };
        let defaulted = self.rng.bernoulli(1.0 / (1.0 + exp(-log_odds)));
        let (days, lost) = if defaulted {
            (5.0 + 15.0 * self.rng.uniform(), (amount * (0.35 + 0.55 * self.rng.uniform())).round())
        } else {
            (CONFIRMED_DAYS as f64, 0.0)
        };
        decided.push(LenderEvent {
            time: EventTime(time + (days * 24.0 * HOUR) as i64),
            account: self.account,
            what: What::Repayment { application: number, defaulted, lost: Cents(lost as i64) },
        });
    }
}

/// Mean wait between the first burst of withdrawals and the application, in hours.
const STRESS_LAG_HOURS: f64 = 20.0;

/// To whole tens of the currency, at least one.
fn tens(cents: f64) -> f64 {
    ((cents / 1_000.0).round() * 1_000.0).max(1_000.0)
}

/// The exponential by Taylor's series and squaring: plain additions and multiplications, so the same bits on every machine. Relative error below
/// 1e-12 for the arguments used here.
fn exp(x: f64) -> f64 {
    let y = x.clamp(-700.0, 700.0) / 1024.0;
    let mut result = 1.0 + y * (1.0 + y / 2.0 * (1.0 + y / 3.0 * (1.0 + y / 4.0 * (1.0 + y / 5.0 * (1.0 + y / 6.0)))));
    for _ in 0..10 {
        result *= result;
    }
    result
}

impl Cents {
    /// In units of the currency: the float nearest to the decimal number.
    #[cfg(test)]
    pub fn amount(self) -> f64 {
        self.0 as f64 / 100.0
    }
}

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let size = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", size / 100, size % 100)
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Salary => "salary",
            Kind::Spending => "spending",
            Kind::Withdrawal => "withdrawal",
            Kind::Rent => "rent",
            Kind::Transfer => "transfer",
            Kind::Fee => "fee",
        }
    }
}

impl LenderEvent {
    /// The name of the event's source.
    pub fn source(&self) -> &'static str {
        match self.what {
            What::Transaction { .. } => "transactions",
            What::Application { .. } => "applications",
            What::Repayment { .. } => "repayments",
        }
    }

    /// The row by the [`schema`] of its source.
    #[cfg(test)]
    pub fn row(&self) -> Vec<Value> {
        let (account, time) = (Value::Int(self.account), Value::Time(self.time));
        match &self.what {
            What::Transaction { number, amount, kind, balance } => vec![
                Value::text(&format!("t{number:09}")),
                account,
                time,
                Value::Float(amount.amount()),
                Value::text(kind.name()),
                Value::Float(balance.amount()),
            ],
            What::Application { number, amount, months, payment } => vec![
                Value::text(&format!("a{number:08}")),
                account,
                time,
                Value::Float(amount.amount()),
                Value::Int(i64::from(*months)),
                Value::Float(payment.amount()),
            ],
            What::Repayment { application, defaulted, lost } => {
                vec![Value::text(&format!("a{application:08}")), account, time, Value::Bool(*defaulted), Value::Float(lost.amount())]
            }
        }
    }

    /// Appends the event to `out` as a JSON object by the [`schema`] of its source.
    pub fn write_json(&self, out: &mut String) {
        let LenderEvent { time, account, what } = self;
        // Writing to a String cannot fail.
        let _ = match what {
            What::Transaction { number, amount, kind, balance } => write!(
                out,
                r#"{{"transaction_id":"t{number:09}","account_id":{account},"booked_at":"{time}","amount":{amount},"kind":"{}","balance":{balance}}}"#,
                kind.name()
            ),
            What::Application { number, amount, months, payment } => write!(
                out,
                r#"{{"application_id":"a{number:08}","account_id":{account},"applied_at":"{time}","amount":{amount},"months":{months},"payment":{payment}}}"#
            ),
            What::Repayment { application, defaulted, lost } => write!(
                out,
                r#"{{"application_id":"a{application:08}","account_id":{account},"observed_at":"{time}","defaulted":{defaulted},"lost":{lost}}}"#
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn small() -> LenderOptions {
        LenderOptions { customers: 1000, ..LenderOptions::default() }
    }

    const FINGERPRINT: u64 = 5_550_891_170_388_414_942;

    /// FNV-1a over the JSON of the first events.
    fn fingerprint(options: LenderOptions) -> u64 {
        let mut text = String::new();
        Lender::new(options).take(10_000).for_each(|event| event.write_json(&mut text));
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn a_seed_names_one_lender_on_every_machine() {
        assert_eq!(fingerprint(small()), FINGERPRINT);
        assert_ne!(fingerprint(LenderOptions { seed: 8, ..small() }), FINGERPRINT);
    }

    #[test]
    fn events_come_in_order_and_every_account_adds_up() {
        let options = small();
        let (mut last, mut balances, mut applied) = (options.start, HashMap::new(), HashMap::new());
        let (mut transactions, mut applications) = (0, 0);
        let end = options.start + Span(150 * DAY);
        for event in Lender::new(options) {
            assert!(event.time >= last && event.time < end, "{event:?} after {last}");
            last = event.time;
            match event.what {
                What::Transaction { number, amount, balance, .. } => {
                    transactions += 1;
                    assert_eq!(number, transactions);
                    if let Some(before) = balances.insert(event.account, balance.0) {
                        assert_eq!(before + amount.0, balance.0, "{event:?}");
                    }
                }
                What::Application { number, amount, .. } => {
                    applications += 1;
                    assert_eq!(number, applications);
                    applied.insert(number, (event.account, event.time, amount));
                }
                What::Repayment { application, defaulted, lost } => {
                    let (account, at, amount) = applied.remove(&application).expect("an outcome has one application before it");
                    let days = (event.time - at).0 as f64 / DAY as f64;
                    assert_eq!(account, event.account);
                    assert!(if defaulted {
                        (5.0..20.0).contains(&days) && lost > Cents(0) && lost < amount
                    } else {
                        days == 21.0 && lost == Cents(0)
                    });
                }
            }
        }
        // Only loans of the last three weeks are still open.
        assert!(applied.values().all(|(_, at, _)| *at > end - Span(22 * DAY)));
    }

    #[test]
    fn the_rates_are_those_the_demo_counts_on() {
        let (mut weeks, mut outcomes) = ([0usize; 22], HashMap::new());
        let (mut week_of, mut transactions, mut nights) = (HashMap::new(), 0, 0);
        let start = LenderOptions::default().start;
        for event in Lender::new(small()) {
            let day = (event.time - start).0 / DAY;
            match event.what {
                What::Application { number, .. } => {
                    weeks[(day / 7) as usize] += 1;
                    week_of.insert(number, day / 7);
                }
                What::Repayment { application, defaulted, .. } => {
                    let count: &mut (u32, u32) = outcomes.entry(week_of[&application]).or_default();
                    count.0 += 1;
                    count.1 += u32::from(defaulted);
                }
                What::Transaction { .. } => {
                    transactions += 1;
                    nights += usize::from((event.time.0.rem_euclid(DAY)) < DAY / 6);
                }
            }
        }
        // A quarter of the default number of customers: 1,500 applications a week there are 375 here.
        assert!(weeks[..21].iter().all(|n| (375..600).contains(n)), "{weeks:?}");
        assert!((140_000..180_000).contains(&transactions), "{transactions}");
        assert!(nights * 20 < transactions, "{nights} bookings before 4 o'clock");
        let rate = |weeks: std::ops::Range<i64>| {
            let (all, bad) = weeks.map(|w| outcomes[&w]).fold((0, 0), |sum, week| (sum.0 + week.0, sum.1 + week.1));
            f64::from(bad) / f64::from(all)
        };
        assert!((0.10..0.15).contains(&rate(0..12)), "{}", rate(0..12));
        assert!((0.18..0.26).contains(&rate(14..18)), "{}", rate(14..18));
    }

    #[test]
    fn rows_and_json_tell_the_same() {
        for event in Lender::new(LenderOptions { customers: 20, days: 40, ..small() }) {
            let schema = schema(event.source()).expect("every event has a source");
            let mut text = String::new();
            event.write_json(&mut text);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            for (name, value) in schema.names().zip(event.row()) {
                assert_eq!(json[name], serde_json::to_value(&value).expect("a value"), "{name} of {text}");
            }
            assert_eq!(json.as_object().map(serde_json::Map::len), Some(schema.len()));
        }
    }

    #[test]
    fn the_exponential_is_exact_enough() {
        for i in -800..800 {
            let x = f64::from(i) * 0.01;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-12, "{x}");
        }
    }
}
