//! What two specs of an app differ in, and what that needs.
