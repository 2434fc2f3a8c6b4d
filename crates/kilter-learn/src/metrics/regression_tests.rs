use super::*;
use serde_json::Value;

/// Figures of scikit-learn, which `tests/golden/figures.py` makes: without and with weights.
#[test]
fn figures_are_those_of_scikit_learn() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/figures.json")).unwrap();
    let numbers = |name: &str| -> Vec<f64> { golden[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let (found, labels, counts, weights) = (numbers("predictions"), numbers("labels"), numbers("counts"), numbers("weights"));
    let near = |name: &str, own: f64, theirs: f64| assert!((own - theirs).abs() < 1e-12 * theirs.abs().max(1.0), "{name}: {own}, {theirs}");
    let check = |name: &str, own: [f64; 2]| own.into_iter().zip(numbers(name)).for_each(|(own, theirs)| near(name, own, theirs));
    check("rmse", [rmse(&found, &labels), rmse_weighted(&found, &labels, &weights)]);
    check("mae", [mae(&found, &labels), mae_weighted(&found, &labels, &weights)]);
    check("r2", [r2(&found, &labels), r2_weighted(&found, &labels, &weights)]);
    check("pinball", [pinball(&found, &labels, 0.8), pinball_weighted(&found, &labels, &weights, 0.8)]);
    for (name, labels, power) in [("squared", &labels, 0.0), ("poisson", &counts, 1.0), ("tweedie", &counts, 1.5), ("gamma", &labels, 2.0)]
    {
        check(name, [deviance(&found, labels, power), deviance_weighted(&found, labels, &weights, power)]);
    }
    near("median", median_absolute_error(&found, &labels), golden["median_absolute_error"].as_f64().unwrap());
    let all = evaluate_regression(&found, &labels, Aim::Quantile { level: 0.8 });
    assert_eq!((all.rows, all.rmse, all.pinball), (101, rmse(&found, &labels), pinball(&found, &labels, 0.8)));
    assert!(all.deviance.is_nan() && (all.bias - (all.mean_prediction - all.mean_label)).abs() < 1e-15);
}

#[test]
fn what_rows_do_not_define_is_not_known() {
    assert!([rmse(&[], &[]), mae(&[], &[]), median_absolute_error(&[], &[]), coverage(&[], &[])].iter().all(|x| x.is_nan()));
    assert!(r2(&[1.0, 2.0], &[3.0, 3.0]).is_nan(), "labels that do not vary");
    assert!(deviance(&[0.0], &[1.0], 1.0).is_nan() && deviance(&[-1.0], &[1.0], 2.0).is_nan(), "no such mean");
    assert!(deviance(&[1.0], &[0.0], 2.0).is_nan() && deviance(&[1.0], &[-1.0], 1.5).is_nan(), "no such label");
    assert!(deviance(&[2.0], &[2.0], 1.5).abs() < 1e-14);
    assert_eq!(
        (median_absolute_error(&[0.0; 4], &[1.0, 2.0, 4.0, 9.0]), coverage(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 1.0, 5.0])),
        (3.0, 0.5)
    );
}
