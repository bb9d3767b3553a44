//! Tests in an emulated guest with cgroup v2: run by `make test-v2`.
