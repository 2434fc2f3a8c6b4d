//! Answers of several shards as one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::app::Answer;
use crate::error::ApiError;
use crate::routes::OPEN_METRICS;
use crate::wire;

const COUNTS: [&str; 5] = ["accepted", "duplicates", "late", "ignored", "rejected"];
/// Rejections listed in one answer.
const LISTED: usize = 100;

/// What became of the rows of a body, of each part with what the sender calls its rows.
pub fn reports(parts: &[(Vec<usize>, Bytes)]) -> Answer {
    let mut sums = [0; COUNTS.len()];
    let mut rejections = Vec::new();
    for (rows, bytes) in parts {
        let report: Value = serde_json::from_slice(bytes).map_err(|e| ApiError::internal(&format!("a shard's report: {e}")))?;
        for (sum, name) in sums.iter_mut().zip(COUNTS) {
            *sum += report[name].as_u64().unwrap_or(0);
        }
        for mut rejection in report["rejections"].as_array().cloned().unwrap_or_default() {
            let place = rejection["row"].as_u64().and_then(|row| rows.get(row as usize));
            rejection["row"] = json!(place);
            rejections.push(rejection);
        }
    }
    rejections.sort_by_key(|rejection| rejection["row"].as_u64());
    rejections.truncate(LISTED);
    let mut report: BTreeMap<&str, Value> = COUNTS.into_iter().zip(sums).map(|(name, sum)| (name, json!(sum))).collect();
    let [accepted, duplicates, .., rejected] = sums;
    let all_rejected = rejected > 0 && accepted + duplicates == 0;
    if all_rejected {
        let message = format!("every row was rejected ({rejected})");
        report.insert("error", json!({ "code": "all_rejected", "message": message, "hint": "`rejections` says what is wrong with each" }));
    }
    // Each shard has a log of its own, and they have no common end.
    report.insert("next_offset", Value::Null);
    report.insert("rejections", Value::Array(rejections));
    Ok(wire::json(if all_rejected { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, &report))
}

/// One text of the figures of several shards: each sample gets a label `shard`, but for those of the worker itself, and the samples of a family stay together.
pub fn metrics(texts: &[(Option<u32>, String)]) -> Response {
    let mut families: BTreeMap<&str, (Vec<&str>, String)> = BTreeMap::new();
    for (shard, text) in texts {
        let mut family = "";
        let mut named = false;
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# ") {
                let name = rest.split(' ').nth(1).unwrap_or_default();
                if name != family {
                    family = name;
                    named = !families.contains_key(name);
                }
                let (heads, _) = families.entry(family).or_default();
                if named {
                    heads.push(line);
                }
                continue;
            }
            let (_, samples) = families.entry(family).or_default();
            let at = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(at);
            let Some(shard) = shard else {
                samples.push_str(line);
                samples.push('\n');
                continue;
            };
            // Writing to a text cannot fail.
            let _ = match rest.strip_prefix('{') {
                Some(labels) => writeln!(samples, "{name}{{shard=\"{shard}\",{labels}"),
                None => writeln!(samples, "{name}{{shard=\"{shard}\"}}{rest}"),
            };
        }
    }
    let mut whole = String::new();
    for (heads, samples) in families.values() {
        heads.iter().for_each(|head| {
            let _ = writeln!(whole, "{head}");
        });
        whole.push_str(samples);
    }
    whole.push_str("# EOF\n");
    let mut response = Response::new(Body::from(whole));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn figures_of_shards_stand_family_by_family() {
        let of =
            |n: u32| format!("# HELP a Of a.\n# TYPE a counter\na_total {n}\n# HELP b Of b.\n# TYPE b gauge\nb{{x=\"y\"}} {n}\n# EOF\n");
        let merged = text(metrics(&[(Some(0), of(1)), (Some(7), of(2)), (None, of(3))])).await;
        let expected = "# HELP a Of a.\n# TYPE a counter\na_total{shard=\"0\"} 1\na_total{shard=\"7\"} 2\na_total 3\n\
                        # HELP b Of b.\n# TYPE b gauge\nb{shard=\"0\",x=\"y\"} 1\nb{shard=\"7\",x=\"y\"} 2\nb{x=\"y\"} 3\n# EOF\n";
        assert_eq!(merged, expected);
        assert_eq!(text(metrics(&[])).await, "# EOF\n");
    }

    #[tokio::test]
    async fn reports_add_up_and_rows_keep_the_senders_numbers() {
        let part = |accepted, rows: &[usize]| {
            let rejections: Vec<Value> = rows.iter().map(|row| json!({ "row": row, "code": "wrong_type" })).collect();
            Bytes::from(json!({ "accepted": accepted, "rejected": rows.len(), "rejections": rejections }).to_string())
        };
        let response = reports(&[(vec![0, 4], part(1, &[1])), (vec![2, 3], part(0, &[0, 1]))]).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let report: Value = serde_json::from_str(&text(response).await).unwrap();
        let rows: Vec<u64> = report["rejections"].as_array().unwrap().iter().map(|r| r["row"].as_u64().unwrap()).collect();
        assert_eq!((&report["accepted"], &report["rejected"], rows), (&json!(1), &json!(3), vec![2, 3, 4]));
        let none = reports(&[(vec![0], part(0, &[0]))]).unwrap();
        assert_eq!(none.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
