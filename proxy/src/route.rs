//! Which backend a request goes to.
//!
//! Today there are no rules: the destination that was dialled. The rules of Gateway API's HTTPRoute and
//! GRPCRoute will choose here, from the head alone.

use std::rc::Rc;

use http::request;

use crate::target::Target;

/// The backend of a request that was sent to `dialled`.
pub(crate) fn backend<'a>(dialled: &'a Rc<Target>, _head: &request::Parts) -> &'a Rc<Target> {
    dialled
}
