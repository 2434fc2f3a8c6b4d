//! A model that an MLflow client logged or registered with the project, as the file that its program wrote.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use kilter_tracking::flavors;

use crate::api::Client;
use crate::commands::cell;

const API: &str = "/api/2.0/mlflow";
const PROXY: &str = "/api/2.0/mlflow-artifacts/artifacts";
const OWN: &str = "mlflow-artifacts:/";
/// What it is when Kilter itself logged it.
const KILTER: &str = "kilter_scores_";

type Flavors = BTreeMap<String, BTreeMap<String, String>>;

/// Whether a name is MLflow's address of a model, and no file's.
pub fn is_uri(name: &str) -> bool {
    ["models:/", "runs:/"].iter().any(|scheme| name.starts_with(scheme))
}

/// The file of the model at an address, and its name.
pub fn fetch(client: &Client, uri: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let place = place(client, uri)?;
    let Some(path) = place.strip_prefix(OWN) else {
        bail!(
            "the files of {uri} are at {place}, which only MLflow's clients read\n  hint: mlflow artifacts download -u {uri}, then kilter models import MODEL FILE"
        );
    };
    let file = |name: &str| client.get_file(&format!("{PROXY}/{}", encoded(&format!("{path}/{name}"))));
    let said = file("MLmodel").context("it has no file MLmodel: it is no logged model")?;
    let said = flavors(&String::from_utf8_lossy(&said)).map_err(|why| anyhow::anyhow!("its file MLmodel cannot be read: {why}"))?;
    let name = native(&said).context("Kilter cannot serve it")?;
    let bytes = file(&name).with_context(|| format!("it lacks the file {name} that its MLmodel names"))?;
    Ok((name, bytes))
}

/// Where the files of the model at an address lie.
fn place(client: &Client, uri: &str) -> anyhow::Result<String> {
    let get = |path: String| client.get(&format!("{API}{path}"));
    if let Some(below) = uri.strip_prefix("runs:/") {
        let (run, path) = below.trim_start_matches('/').split_once('/').context("a model of a run is runs:/RUN/PATH")?;
        let found = get(format!("/runs/get?run_id={}", encoded(run)))?;
        return Ok(format!("{}/{}", cell(&found["run"]["info"]["artifact_uri"]), path.trim_matches('/')));
    }
    let named = uri.trim_start_matches("models:").trim_matches('/');
    let download = |name: &str, version: &str| {
        let found = get(format!("/model-versions/get-download-uri?name={}&version={}", encoded(name), encoded(version)))?;
        Ok(cell(&found["artifact_uri"]))
    };
    match (named.split_once('@'), named.split_once('/')) {
        (Some((name, alias)), _) => {
            let found = get(format!("/registered-models/alias?name={}&alias={}", encoded(name), encoded(alias)))?;
            download(name, &cell(&found["model_version"]["version"]))
        }
        (None, Some((name, version))) => {
            ensure!(
                version.bytes().all(|b| b.is_ascii_digit()) && !version.is_empty(),
                "`{version}` is no version number\n  hint: models:/{name}/1, or an alias: models:/{name}@champion"
            );
            download(name, version)
        }
        (None, None) => {
            let found = get(format!("/logged-models/{}", encoded(named)));
            let found =
                found.map_err(|e| anyhow::anyhow!("{e}\n  hint: a registered model is models:/NAME/VERSION or models:/NAME@ALIAS"))?;
            Ok(cell(&found["model"]["info"]["artifact_uri"]))
        }
    }
}

/// The file among a model's own that the importers read; or how to come by one.
fn native(flavors: &Flavors) -> anyhow::Result<String> {
    let data = |flavor: &str| flavors.get(flavor).map(|fields| fields.get("data").cloned().unwrap_or_default());
    let is_pickle = |file: &str| [".pkl", ".skops"].iter().any(|ending| file.ends_with(ending)) || file.is_empty();
    if flavors.get("python_function").and_then(|fields| fields.get("loader_module")).is_some_and(|module| module.starts_with(KILTER)) {
        return Ok("model.kltm".into());
    }
    if let Some(file) = data("lightgbm") {
        ensure!(
            !is_pickle(&file),
            "LightGBM's scikit-learn estimators are logged as Python objects, which only Python reads\n  hint: \
             model.booster_.save_model(\"model.txt\"), then kilter models import MODEL model.txt; or log the booster itself: \
             mlflow.lightgbm.log_model(model.booster_, ...)"
        );
        return Ok(file);
    }
    if let Some(file) = data("xgboost") {
        ensure!(
            !is_pickle(&file),
            "its file is a Python object\n  hint: model.save_model(\"model.ubj\"), then kilter models import MODEL model.ubj"
        );
        return Ok(file);
    }
    if let Some(file) = data("onnx") {
        return Ok(file);
    }
    if flavors.contains_key("catboost") {
        bail!(
            "CatBoost's own binary format is not read\n  hint: model.save_model(\"model.json\", format=\"json\"), then kilter models import MODEL model.json"
        );
    }
    if flavors.contains_key("sklearn") {
        bail!(
            "scikit-learn's models are logged as Python objects, which only Python reads\n  hint: pip install skl2onnx, then \
             open(\"model.onnx\", \"wb\").write(skl2onnx.to_onnx(model, X[:1].astype(\"float32\")).SerializeToString()), then kilter models \
             import MODEL model.onnx; trees, forests and linear models are read"
        );
    }
    let names: Vec<&str> = flavors.keys().map(String::as_str).collect();
    bail!(
        "its flavors are {}; lightgbm, xgboost and onnx are read\n  hint: convert it to ONNX with the converter of its library, then kilter models import MODEL model.onnx",
        names.join(", ")
    )
}

/// A text as a part of a URL; what separates parts of a path stays.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        native(&flavors(&format!("flavors:\n{text}")).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn files_that_are_read_are_found_and_the_rest_is_told_the_way() {
        let python = "  python_function:\n    loader_module: mlflow.sklearn\n";
        assert_eq!(of(&format!("  lightgbm:\n    data: model.lgb\n{python}")), Ok("model.lgb".into()));
        assert_eq!(of("  xgboost:\n    data: model.ubj\n"), Ok("model.ubj".into()));
        assert_eq!(of("  onnx:\n    data: model.onnx\n  sklearn:\n    pickled_model: m\n"), Ok("model.onnx".into()));
        assert_eq!(of("  python_function:\n    loader_module: kilter_scores_1\n"), Ok("model.kltm".into()));
        for (flavor, way) in [
            ("  lightgbm:\n    data: model.pkl\n", "booster_.save_model"),
            ("  lightgbm:\n    lgb_version: 4\n", "booster_.save_model"),
            ("  catboost:\n    data: model.cb\n", "format=\"json\""),
            ("  sklearn:\n    pickled_model: model.pkl\n", "skl2onnx.to_onnx"),
            (python, "ONNX"),
            ("  pytorch:\n    model_data: data\n", "pytorch"),
        ] {
            let refused = of(flavor).unwrap_err();
            assert!(refused.contains(way) && refused.contains("hint: "), "{refused}");
        }
    }

    #[test]
    fn addresses_are_told_from_files() {
        assert!(is_uri("models:/churn@champion") && is_uri("runs:/1/model"));
        assert!(!is_uri("models/churn.txt") && !is_uri("model.txt"));
        assert_eq!(encoded("1/ab c%é@"), "1/ab%20c%25%C3%A9%40");
    }
}
