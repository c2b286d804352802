/* What the files of the native reader share. */
#ifndef LLMBENCH_NATIVE_READER_H
#define LLMBENCH_NATIVE_READER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifndef __linux__
#error "epoll and SO_TIMESTAMPNS are Linux's; elsewhere sockets are read in Python"
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

#define READ_BYTES (64 * 1024)
#define UNKNOWN_NS INT64_MIN

typedef struct {
    int64_t read_ns;
    int64_t arrival_ns; /* UNKNOWN_NS where nothing told */
    uint32_t num_bytes;
    uint32_t coalesced;
} Row;

/* The rows of one answer, and their bodies one behind the other. */
typedef struct {
    PyObject_HEAD
    Row *rows;
    char *bodies;
    size_t num_rows, max_rows;
    size_t num_bytes, max_bytes;
    long long limit_bytes;
    char between_frames;
} ChunkLog;

extern PyTypeObject ChunkLogType;
extern PyTypeObject ReadSetType;

/* -1 with an exception set, and the log as it was. */
int chunk_log_push(ChunkLog *log, int64_t read_ns, int64_t arrival_ns, const char *body, size_t num_bytes,
                   int coalesced);

/* None for UNKNOWN_NS. */
PyObject *stamp_object(int64_t stamp_ns);

PyObject *send_due(PyObject *self, PyObject *requests);

/* The clock of time.perf_counter_ns. */
static inline int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
