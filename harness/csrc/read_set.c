/* ReadSet: epoll and recvmsg for all streams of a load.
 *
 * Only what nearly every read of a stream is, one whole HTTP chunk behind another, is understood here. Any other read
 * is handed to Python as it came, before the next socket is touched, so that both see every stream in the same order.
 * The interpreter's lock is kept: no call here blocks, and to take it again would cost a stamp.
 */
#include "native_reader.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_EVENTS 1024
#define MAX_SIZE_DIGITS 7
#define EDGES (EPOLLIN | EPOLLRDHUP | EPOLLET)

typedef struct {
    PyObject *target; /* NULL where this file descriptor is not read here */
    ChunkLog *log;    /* or NULL: then every read goes to Python */
    long long num_reads;
} Channel;

typedef struct {
    PyObject_HEAD
    int epoll_fd;
    Channel *channels; /* by file descriptor */
    int num_channels;
    int num_ready, next_ready;
    struct epoll_event ready[MAX_EVENTS];
    char buffer[READ_BYTES];
} ReadSet;

static Channel *channel_of(ReadSet *set, int fd) {
    return fd >= 0 && fd < set->num_channels && set->channels[fd].target != NULL ? &set->channels[fd] : NULL;
}

/* How many bytes of data the HTTP chunk has that `frame` is as a whole, and where they begin; 0 where it is none, the
 * last chunk, or written in a way that only a parser should judge: leading zeros, an extension, an endless size. */
static size_t whole_frame(const char *frame, size_t num_bytes, size_t *begin) {
    size_t size = 0, at = 0;
    for (; at < num_bytes && at <= MAX_SIZE_DIGITS; at++) {
        char c = frame[at];
        if (c >= '0' && c <= '9') size = size * 16 + (size_t)(c - '0');
        else if (c >= 'a' && c <= 'f') size = size * 16 + (size_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') size = size * 16 + (size_t)(c - 'A' + 10);
        else break;
        if (size == 0) return 0;
    }
    if (at == 0 || at > MAX_SIZE_DIGITS || num_bytes != at + size + 4) return 0;
    if (memcmp(frame + at, "\r\n", 2) != 0 || memcmp(frame + num_bytes - 2, "\r\n", 2) != 0) return 0;
    *begin = at + 2;
    return size;
}

static int64_t wall_stamp_ns(struct msghdr *message) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SO_TIMESTAMPNS &&
            part->cmsg_len >= CMSG_LEN(sizeof(struct timespec))) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(part), sizeof stamp);
            return (int64_t)stamp.tv_sec * 1000000000 + stamp.tv_nsec;
        }
    }
    return UNKNOWN_NS;
}

static PyObject *read_set_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names)) return NULL;
    ReadSet *set = (ReadSet *)type->tp_alloc(type, 0);
    if (set == NULL) return NULL;
    set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (set->epoll_fd < 0) {
        Py_DECREF(set);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)set;
}

static int read_set_traverse(ReadSet *set, visitproc visit, void *arg) {
    for (int fd = 0; fd < set->num_channels; fd++) {
        Py_VISIT(set->channels[fd].target);
        Py_VISIT((PyObject *)set->channels[fd].log);
    }
    return 0;
}

static int read_set_clear(ReadSet *set) {
    for (int fd = 0; fd < set->num_channels; fd++) {
        Py_CLEAR(set->channels[fd].target);
        Py_CLEAR(set->channels[fd].log);
    }
    return 0;
}

static PyObject *read_set_close(ReadSet *set, PyObject *Py_UNUSED(ignored)) {
    if (set->epoll_fd >= 0) close(set->epoll_fd);
    set->epoll_fd = -1;
    set->num_ready = set->next_ready = 0;
    read_set_clear(set);
    Py_RETURN_NONE;
}

static void read_set_dealloc(ReadSet *set) {
    PyObject_GC_UnTrack(set);
    if (set->epoll_fd >= 0) close(set->epoll_fd);
    read_set_clear(set);
    PyMem_RawFree(set->channels);
    Py_TYPE(set)->tp_free((PyObject *)set);
}

static int control(ReadSet *set, int operation, int fd) {
    struct epoll_event event = {.events = EDGES, .data.fd = fd};
    if (epoll_ctl(set->epoll_fd, operation, fd, &event) == 0) return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *read_set_fileno(ReadSet *set, PyObject *Py_UNUSED(ignored)) { return PyLong_FromLong(set->epoll_fd); }

static PyObject *read_set_add(ReadSet *set, PyObject *args) {
    int fd;
    PyObject *target;
    if (!PyArg_ParseTuple(args, "iO", &fd, &target)) return NULL;
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "a file descriptor is not negative");
        return NULL;
    }
    if (fd >= set->num_channels) {
        int num_channels = set->num_channels ? set->num_channels : 64;
        while (fd >= num_channels) num_channels *= 2;
        Channel *channels = PyMem_RawRealloc(set->channels, (size_t)num_channels * sizeof(Channel));
        if (channels == NULL) return PyErr_NoMemory();
        memset(channels + set->num_channels, 0, (size_t)(num_channels - set->num_channels) * sizeof(Channel));
        set->channels = channels;
        set->num_channels = num_channels;
    }
    if (control(set, EPOLL_CTL_ADD, fd) < 0) return NULL;
    Channel before = set->channels[fd];
    Py_INCREF(target);
    set->channels[fd] = (Channel){target, NULL, 0};
    Py_XDECREF(before.target);
    Py_XDECREF(before.log);
    Py_RETURN_NONE;
}

static PyObject *read_set_remove(ReadSet *set, PyObject *argument) {
    int fd = PyLong_AsLong(argument);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    Channel *channel = channel_of(set, fd);
    if (channel == NULL) Py_RETURN_NONE;
    Channel before = *channel;
    *channel = (Channel){NULL, NULL, 0};
    int code = control(set, EPOLL_CTL_DEL, fd);
    Py_DECREF(before.target);
    Py_XDECREF(before.log);
    if (code < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *read_set_again(ReadSet *set, PyObject *argument) {
    int fd = PyLong_AsLong(argument);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    if (channel_of(set, fd) != NULL && control(set, EPOLL_CTL_MOD, fd) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *read_set_expect(ReadSet *set, PyObject *args) {
    int fd;
    PyObject *log;
    if (!PyArg_ParseTuple(args, "iO", &fd, &log)) return NULL;
    if (log != Py_None && !PyObject_TypeCheck(log, &ChunkLogType)) {
        PyErr_SetString(PyExc_TypeError, "a native ChunkLog or None");
        return NULL;
    }
    Channel *channel = channel_of(set, fd);
    if (channel == NULL) Py_RETURN_NONE;
    ChunkLog *before = channel->log;
    channel->log = log == Py_None ? NULL : (ChunkLog *)Py_NewRef(log);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *read_set_poll(ReadSet *set, PyObject *Py_UNUSED(ignored)) {
    /* What an exception left over comes first: edges are told once. */
    if (set->next_ready == set->num_ready) {
        set->next_ready = set->num_ready = 0;
        int num_ready = epoll_wait(set->epoll_fd, set->ready, MAX_EVENTS, 0);
        if (num_ready < 0 && errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError);
        set->num_ready = num_ready < 0 ? 0 : num_ready;
    }
    return PyLong_FromLong(set->num_ready - set->next_ready);
}

/* Read the socket of one event. 1: kept here, or there was nothing to read. 0: `*handed` is Python's. -1: exception. */
static int serve(ReadSet *set, struct epoll_event event, int64_t offset_ns, int64_t max_wait_ns, int64_t *read_ns,
                 PyObject **handed) {
    int fd = event.data.fd;
    Channel *channel = channel_of(set, fd);
    if (channel == NULL) return 1; /* removed since it was polled */
    struct iovec vector = {set->buffer, READ_BYTES};
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
        struct cmsghdr align;
    } ancillary;
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = ancillary.bytes, .msg_controllen = sizeof ancillary.bytes};
    ssize_t num_bytes = recvmsg(fd, &message, MSG_DONTWAIT);
    int error = num_bytes < 0 ? errno : 0;
    *read_ns = clock_ns();
    if (error == EAGAIN || error == EWOULDBLOCK || error == EINTR) {
        return error == EINTR && control(set, EPOLL_CTL_MOD, fd) < 0 ? -1 : 1;
    }
    if (error == 0) channel->num_reads++;
    /* Behind what was read stands more of it, or the end of the stream. */
    int more = num_bytes == READ_BYTES || event.events != EPOLLIN;
    if (error == 0 && more && control(set, EPOLL_CTL_MOD, fd) < 0) return -1;
    int64_t wall_ns = error == 0 ? wall_stamp_ns(&message) : UNKNOWN_NS;
    ChunkLog *log = channel->log;
    size_t begin, size;
    if (log != NULL && log->between_frames && num_bytes > 0 && num_bytes < READ_BYTES &&
        (size = whole_frame(set->buffer, (size_t)num_bytes, &begin)) > 0 &&
        (long long)(log->num_bytes + size) <= log->limit_bytes) {
        int64_t arrival_ns = wall_ns == UNKNOWN_NS ? UNKNOWN_NS : wall_ns - offset_ns;
        if (wall_ns == UNKNOWN_NS || (arrival_ns <= *read_ns && *read_ns - arrival_ns <= max_wait_ns)) {
            return chunk_log_push(log, *read_ns, arrival_ns, set->buffer + begin, size, 0) < 0 ? -1 : 1;
        }
    }
    /* Making objects may run the garbage collector, and with it anything: `channel` is not touched below. */
    PyObject *target = Py_NewRef(channel->target);
    long long num_reads = channel->num_reads;
    PyObject *data = error ? PyLong_FromLong(error) : PyBytes_FromStringAndSize(set->buffer, num_bytes);
    PyObject *stamp = stamp_object(wall_ns);
    if (data != NULL && stamp != NULL) {
        *handed = Py_BuildValue("(OOLOL)", target, data, (long long)*read_ns, stamp, num_reads);
    }
    Py_DECREF(target);
    Py_XDECREF(data);
    Py_XDECREF(stamp);
    return *handed == NULL ? -1 : 0;
}

static PyObject *read_set_drain(ReadSet *set, PyObject *args) {
    long long offset_ns, max_wait_ns, until_ns;
    if (!PyArg_ParseTuple(args, "LLL", &offset_ns, &max_wait_ns, &until_ns)) return NULL;
    int64_t read_ns = INT64_MIN; /* the first read is made whatever the time */
    while (set->next_ready < set->num_ready) {
        if (read_ns >= until_ns) Py_RETURN_TRUE;
        struct epoll_event event = set->ready[set->next_ready++];
        PyObject *handed = NULL;
        int kept = serve(set, event, offset_ns, max_wait_ns, &read_ns, &handed);
        if (kept < 0) return NULL;
        if (kept == 0) return handed;
    }
    Py_RETURN_NONE;
}

static PyMethodDef read_set_methods[] = {
    {"fileno", (PyCFunction)read_set_fileno, METH_NOARGS, "Readable while there is something to poll."},
    {"add", (PyCFunction)read_set_add, METH_VARARGS, "Read the socket `fd` from now on, for `target`."},
    {"remove", (PyCFunction)read_set_remove, METH_O, "Read it no more; before it is closed."},
    {"again", (PyCFunction)read_set_again, METH_O, "Read it once more even if nothing arrives."},
    {"expect", (PyCFunction)read_set_expect, METH_VARARGS, "Put whole HTTP chunks from `fd` into a log, or with None none."},
    {"poll", (PyCFunction)read_set_poll, METH_NOARGS, "How many sockets are to be drained now."},
    {"drain", (PyCFunction)read_set_drain, METH_VARARGS,
     "Read them: None when all have been, True at `until_ns`, or a read that is not for a log."},
    {"close", (PyCFunction)read_set_close, METH_NOARGS, "Read nothing any more; twice is fine."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ReadSetType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "llmbench.harness.native_reader.ReadSet",
    .tp_doc = "Sockets that are read edge by edge.",
    .tp_basicsize = sizeof(ReadSet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = read_set_new,
    .tp_dealloc = (destructor)read_set_dealloc,
    .tp_traverse = (traverseproc)read_set_traverse,
    .tp_clear = (inquiry)read_set_clear,
    .tp_methods = read_set_methods,
};
