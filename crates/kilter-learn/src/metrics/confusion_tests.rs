use super::super::{
    by_segment, curve, evaluate_classes, evaluate_regression, log_loss_of_classes, macro_auc, mae, regression::Aim, top_k_accuracy,
};
use super::*;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/figures.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Figures of scikit-learn, which `tests/golden/figures.py` makes: without and with weights.
#[test]
fn figures_of_classes_are_those_of_scikit_learn() {
    let golden = golden();
    let of = |name: &str| numbers(&golden[name]);
    let (labels, probabilities, weights) = (of("classes"), of("probabilities"), of("class_weights"));
    let near = |name: &str, own: f64, theirs: f64| assert!((own - theirs).abs() < 1e-12, "{name}: {own}, {theirs}");
    for (at, weights) in [None, Some(&weights[..])].into_iter().enumerate() {
        let judged = evaluate_classes(&probabilities, &labels, 3, weights);
        let check = |name: &str, own: f64| near(name, own, of(name)[at]);
        check("accuracy", judged.accuracy);
        check("balanced_accuracy", judged.balanced_accuracy);
        check("macro_f1", judged.macro_f1);
        check("matthews", judged.matthews);
        check("kappa", judged.confusion.kappa());
        check("log_loss", judged.log_loss);
        check("macro_auc", judged.macro_auc);
        check("top_2", top_k_accuracy(&probabilities, &labels, 3, 2, weights));
        assert_eq!(judged.log_loss, log_loss_of_classes(&probabilities, &labels, 3, weights));
    }
    let judged = evaluate_classes(&probabilities, &labels, 3, None);
    for (class, own) in judged.confusion.classes().into_iter().enumerate() {
        near("precision", own.precision, of("precision")[class]);
        near("recall", own.recall, of("recall")[class]);
        near("f_beta", judged.confusion.f_beta(class, 2.0), of("f_beta")[class]);
        assert_eq!(judged.confusion.counts[class], numbers(&golden["confusion"][class]));
        // Specificity is the recall of all that is not the class.
        let others: f64 = (0..3)
            .filter(|&truth| truth != class)
            .flat_map(|truth| (0..3).map(move |call| (truth, call)))
            .filter(|(_, call)| *call != class)
            .map(|(truth, call)| judged.confusion.counts[truth][call])
            .sum();
        near("specificity", own.specificity, others / (80.0 - own.support));
    }
}

#[test]
fn points_of_the_curve_are_those_of_scikit_learn() {
    let golden = golden();
    let of = |name: &str| numbers(&golden[name]);
    let scores: Vec<f64> = of("probabilities").into_iter().skip(1).step_by(3).collect();
    let labels: Vec<f64> = of("classes").into_iter().map(|class| f64::from(u8::from(class == 1.0))).collect();
    let points = curve(&scores, &labels, Some(&of("class_weights")));
    let (fpr, tpr) = (numbers(&golden["roc"][0]), numbers(&golden["roc"][1]));
    // Theirs begins at the threshold that calls nothing.
    assert_eq!((points.len() + 1, points.len() + 1), (fpr.len(), tpr.len()));
    let (precision, recall) = (numbers(&golden["pr"][0]), numbers(&golden["pr"][1]));
    for (at, point) in points.iter().enumerate() {
        assert!((point.false_positive_rate - fpr[at + 1]).abs() < 1e-12 && (point.true_positive_rate - tpr[at + 1]).abs() < 1e-12);
        // Theirs runs from the lowest threshold up, and ends where nothing is called.
        let there = recall.len() - 2 - at;
        assert!((point.precision - precision[there]).abs() < 1e-12 && (point.true_positive_rate - recall[there]).abs() < 1e-12);
        let confusion = Confusion::at(point.threshold, &scores, &labels, Some(&of("class_weights")));
        let positive = confusion.classes()[1];
        assert!((positive.precision - point.precision).abs() < 1e-12 && (positive.recall - point.true_positive_rate).abs() < 1e-12);
        assert!((1.0 - positive.specificity - point.false_positive_rate).abs() < 1e-12);
    }
}

#[test]
fn what_rows_do_not_define_is_not_known() {
    let one_sided = Confusion::at(0.5, &[0.9, 0.8], &[1.0, 1.0], None);
    assert!(one_sided.matthews().is_nan() && one_sided.accuracy() == 1.0 && one_sided.balanced_accuracy() == 1.0);
    assert!(one_sided.classes()[0].recall.is_nan() && one_sided.classes()[0].f1.is_nan() && one_sided.macro_f1() == 1.0);
    let none = Confusion::of(&[], &[], 2, None);
    assert!([none.accuracy(), none.kappa(), none.matthews(), none.macro_f1()].iter().all(|figure| figure.is_nan()));
    assert!(macro_auc(&[0.5, 0.5], &[0.0], 2, None).is_nan() && curve(&[], &[], None).is_empty());
}

#[test]
fn any_figure_goes_by_segment() {
    let (found, labels, regions) = ([1.0, 2.0, 5.0, 9.0], [2.0, 2.0, 4.0, 6.0], ["b", "a", "a", "b"]);
    assert_eq!(by_segment(&found, &labels, &regions, mae), [("a", 0.5), ("b", 2.0)]);
    let judged = by_segment(&found, &labels, &regions, |found, labels| evaluate_regression(found, labels, Aim::Mean));
    assert_eq!((judged[0].1.rows, judged[1].1.bias), (2, 1.0));
}
