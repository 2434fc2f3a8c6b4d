//! Questions that have been understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use pgwire::api::Type;

use crate::catalogue::Question;
use crate::encode::pg_type;
use crate::error::Result;
use crate::rights::Rights;
use crate::sealed::Sealed;
use crate::worlds::World;

/// About what a part of a plan takes, kept for a statement that is prepared.
const PART: usize = 4 << 10;

/// A question that has been understood.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) what: What,
    /// What PostgreSQL would call the columns.
    pub(crate) names: Option<Vec<String>>,
    /// Types that parameters are cast to, by place.
    pub(crate) casts: BTreeMap<usize, Type>,
    pub(crate) world: Arc<World>,
}

#[derive(Clone)]
pub(crate) enum What {
    Plan(Sealed<LogicalPlan>),
    Catalogue(Arc<Question>),
}

impl Prepared {
    /// Whether it was understood for whoever has these rights.
    pub(crate) fn is_for(&self, rights: &Rights) -> bool {
        self.world.rights == *rights
    }

    /// Whether whoever was told of the one may go on with the other.
    ///
    /// # Errors
    /// As [`Prepared::parameters`].
    pub(crate) fn is_like(&self, before: &Prepared) -> Result<bool> {
        Ok(self.names() == before.names() && self.types() == before.types() && self.parameters()? == before.parameters()?)
    }

    /// What clients are told that the columns are.
    pub fn types(&self) -> Vec<Type> {
        match &self.what {
            What::Plan(plan) => plan.schema().fields().iter().map(|field| pg_type(field.data_type())).collect(),
            What::Catalogue(question) => question.columns().iter().map(|column| column.data_type.clone()).collect(),
        }
    }

    /// About how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        let What::Plan(plan) = &self.what else { return PART };
        let mut parts = 0_usize;
        let counted = plan.apply_with_subqueries(|_| {
            parts += 1;
            Ok(TreeNodeRecursion::Continue)
        });
        counted.map_or(usize::MAX, |_| parts.saturating_mul(PART))
    }

    /// What the parameters are, as far as the question tells.
    pub fn parameters(&self) -> Result<Vec<Type>> {
        match &self.what {
            What::Plan(plan) => {
                let found = plan.get_parameter_types()?;
                let place = |name: &String| name.strip_prefix('$').and_then(|place| place.parse::<usize>().ok()).unwrap_or(0);
                let count = found.keys().map(place).chain(self.casts.keys().copied()).max().unwrap_or(0);
                let told = |place: usize| found.get(&format!("${place}")).and_then(Option::as_ref).map(pg_type);
                let of = |place: usize| self.casts.get(&place).cloned().or_else(|| told(place)).unwrap_or(Type::TEXT);
                Ok((1..=count).map(of).collect())
            }
            What::Catalogue(question) => Ok(question.parameters.clone()),
        }
    }

    /// What its rows are as tables of Arrow, under the names that clients are told.
    pub(crate) fn schema(&self) -> SchemaRef {
        let own = match &self.what {
            What::Plan(plan) => Arc::clone(plan.schema().inner()),
            What::Catalogue(question) => question.schema(),
        };
        let fields: Vec<_> = own.fields().iter().zip(self.names()).map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        Arc::new(Schema::new(fields))
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        let own: Vec<String> = match &self.what {
            What::Plan(plan) => plan.schema().fields().iter().map(|field| field.name().clone()).collect(),
            What::Catalogue(question) => question.columns().iter().map(|column| column.name.clone()).collect(),
        };
        match &self.names {
            Some(names) if names.len() == own.len() => names.clone(),
            _ => own,
        }
    }
}
