//! The SQL that is read: sqlparser's generic dialect, with a limit to how much work a text may make.
//!
//! Where the parser is in doubt it tries one reading and then another, and readings within readings double the work at every level: a text of
//! a hundred bytes such as `a.a.a.a...` or `ceil(ceil(ceil(...` that ends wrongly would keep it busy for years.

use std::any::TypeId;
use std::cell::Cell;

use sqlparser::ast::Expr;
use sqlparser::dialect::{Dialect, GenericDialect};
use sqlparser::parser::{Parser, ParserError};

/// Operands that may be begun, those of readings given up among them. The longest expression has at most some thousands.
const MOST: u32 = 50_000;

#[derive(Debug, Default)]
pub(super) struct Bounded {
    base: GenericDialect,
    begun: Cell<u32>,
}

/// Answered as the base does: all that bears on expressions.
macro_rules! as_the_base {
    ($($method:ident)*) => { $( fn $method(&self) -> bool { self.base.$method() } )* };
}

impl Dialect for Bounded {
    fn dialect(&self) -> TypeId {
        self.base.dialect()
    }

    fn parse_prefix(&self, _: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        self.begun.set(self.begun.get() + 1);
        (self.begun.get() > MOST).then_some(Err(ParserError::RecursionLimitExceeded))
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        self.base.is_delimited_identifier_start(c)
    }

    fn is_identifier_start(&self, c: char) -> bool {
        self.base.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        self.base.is_identifier_part(c)
    }

    as_the_base! {
        supports_unicode_string_literal
        supports_window_function_null_treatment_arg
        supports_dictionary_syntax
        support_map_literal_syntax
        allow_extract_custom
        allow_extract_single_quotes
        supports_extract_comma_syntax
        supports_try_convert
        supports_bitwise_shift_operators
        supports_named_fn_args_with_assignment_operator
        supports_struct_literal
        supports_nested_comments
        supports_multiline_comment_hints
        supports_string_escape_constant
        supports_array_typedef_with_brackets
        supports_match_against
        supports_filter_during_aggregation
        supports_data_type_signed_suffix
        supports_interval_options
        supports_quote_delimited_string
        supports_comma_separated_trim
        supports_xml_expressions
    }
}
