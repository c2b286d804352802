/* ChunkLog: what was read of one answer, a row per read, without a Python object until the answer has ended. */
#include "native_reader.h"

int chunk_log_push(ChunkLog *log, int64_t read_ns, int64_t arrival_ns, const char *body, size_t num_bytes,
                   int coalesced) {
    if (num_bytes > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a chunk of 4 GiB or more");
        return -1;
    }
    if (log->num_rows == log->max_rows) {
        size_t max_rows = log->max_rows ? 2 * log->max_rows : 64;
        Row *rows = PyMem_RawRealloc(log->rows, max_rows * sizeof(Row));
        if (rows == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        log->rows = rows;
        log->max_rows = max_rows;
    }
    if (num_bytes > log->max_bytes - log->num_bytes) {
        size_t max_bytes = log->max_bytes ? log->max_bytes : 8192;
        while (num_bytes > max_bytes - log->num_bytes) max_bytes *= 2;
        char *bodies = PyMem_RawRealloc(log->bodies, max_bytes);
        if (bodies == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        log->bodies = bodies;
        log->max_bytes = max_bytes;
    }
    if (num_bytes > 0) memcpy(log->bodies + log->num_bytes, body, num_bytes); /* of nothing, bodies may be NULL */
    log->num_bytes += num_bytes;
    log->rows[log->num_rows++] = (Row){read_ns, arrival_ns, (uint32_t)num_bytes, (uint32_t)coalesced};
    return 0;
}

static void chunk_log_clear(ChunkLog *log) {
    PyMem_RawFree(log->rows);
    PyMem_RawFree(log->bodies);
    log->rows = NULL;
    log->bodies = NULL;
    log->num_rows = log->max_rows = log->num_bytes = log->max_bytes = 0;
}

static PyObject *chunk_log_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"limit_bytes", NULL};
    long long limit_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L", names, &limit_bytes)) return NULL;
    ChunkLog *log = (ChunkLog *)type->tp_alloc(type, 0); /* zeroed */
    if (log != NULL) log->limit_bytes = limit_bytes;
    return (PyObject *)log;
}

static void chunk_log_dealloc(ChunkLog *log) {
    chunk_log_clear(log);
    Py_TYPE(log)->tp_free((PyObject *)log);
}

static PyObject *chunk_log_append(ChunkLog *log, PyObject *args) {
    long long read_ns, arrival_ns = UNKNOWN_NS;
    PyObject *arrival;
    const char *body;
    Py_ssize_t num_bytes;
    int coalesced;
    if (!PyArg_ParseTuple(args, "LOy#p", &read_ns, &arrival, &body, &num_bytes, &coalesced)) return NULL;
    if (arrival != Py_None) {
        arrival_ns = PyLong_AsLongLong(arrival);
        if (arrival_ns == -1 && PyErr_Occurred()) return NULL;
    }
    if (chunk_log_push(log, read_ns, arrival_ns, body, (size_t)num_bytes, coalesced) < 0) return NULL;
    Py_RETURN_NONE;
}

PyObject *stamp_object(int64_t stamp_ns) {
    if (stamp_ns == UNKNOWN_NS) Py_RETURN_NONE;
    return PyLong_FromLongLong(stamp_ns);
}

static PyObject *chunk_log_take(ChunkLog *log, PyObject *Py_UNUSED(ignored)) {
    Py_ssize_t num_rows = (Py_ssize_t)log->num_rows;
    const char *body = log->bodies;
    PyObject *columns = PyTuple_New(4);
    if (columns == NULL) return NULL;
    for (int column = 0; column < 4; column++) {
        PyObject *list = PyList_New(num_rows);
        if (list == NULL) goto failed;
        PyTuple_SET_ITEM(columns, column, list);
    }
    for (Py_ssize_t index = 0; index < num_rows; index++) {
        const Row *row = &log->rows[index];
        PyObject *items[4] = {
            PyLong_FromLongLong(row->read_ns),
            stamp_object(row->arrival_ns),
            PyBytes_FromStringAndSize(body, row->num_bytes),
            PyBool_FromLong(row->coalesced),
        };
        body += row->num_bytes;
        int complete = 1;
        for (int column = 0; column < 4; column++) {
            complete = complete && items[column] != NULL;
            PyList_SET_ITEM(PyTuple_GET_ITEM(columns, column), index, items[column]); /* a list takes NULL as a gap */
        }
        if (!complete) goto failed;
    }
    chunk_log_clear(log);
    return columns;
failed:
    Py_DECREF(columns);
    return NULL;
}

static PyObject *chunk_log_last_read_ns(ChunkLog *log, void *Py_UNUSED(closure)) {
    if (log->num_rows == 0) Py_RETURN_NONE;
    return PyLong_FromLongLong(log->rows[log->num_rows - 1].read_ns);
}

static PyObject *chunk_log_num_bytes(ChunkLog *log, void *Py_UNUSED(closure)) {
    return PyLong_FromSize_t(log->num_bytes);
}

static PyMethodDef chunk_log_methods[] = {
    {"append", (PyCFunction)chunk_log_append, METH_VARARGS, "Add a row: read_ns, arrival_ns or None, body, coalesced."},
    {"take", (PyCFunction)chunk_log_take, METH_NOARGS, "The four columns as lists; the log is empty afterwards."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef chunk_log_members[] = {
    {"between_frames", T_BOOL, offsetof(ChunkLog, between_frames), 0, "Whether a read may begin with a chunk's size."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef chunk_log_getters[] = {
    {"last_read_ns", (getter)chunk_log_last_read_ns, NULL, "When the last row was read; None without one.", NULL},
    {"num_bytes", (getter)chunk_log_num_bytes, NULL, "Of all bodies together.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject ChunkLogType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "llmbench.harness.native_reader.ChunkLog",
    .tp_doc = "What was read of one answer's body, up to limit_bytes of it by ReadSet.",
    .tp_basicsize = sizeof(ChunkLog),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = chunk_log_new,
    .tp_dealloc = (destructor)chunk_log_dealloc,
    .tp_methods = chunk_log_methods,
    .tp_members = chunk_log_members,
    .tp_getset = chunk_log_getters,
};
