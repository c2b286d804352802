/* send_due: requests leave when they are due, one right after the other, with nothing between two of them. */
#include "native_reader.h"

#include <errno.h>
#include <sys/socket.h>

typedef struct {
    int fd;
    const char *payload;
    Py_ssize_t num_bytes;
    long long due_ns;
    Py_ssize_t num_sent; /* -1: the socket refuses */
    int64_t began_ns, sent_ns;
} Departure;

static void depart(Departure *departure) {
    do {
        departure->began_ns = clock_ns();
    } while (departure->began_ns < departure->due_ns);
    ssize_t num_sent = send(departure->fd, departure->payload, (size_t)departure->num_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    departure->sent_ns = clock_ns();
    int waits = num_sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    departure->num_sent = waits ? 0 : num_sent;
}

PyObject *send_due(PyObject *Py_UNUSED(self), PyObject *argument) {
    /* A tuple of its own keeps the payloads alive and in place. */
    PyObject *requests = PySequence_Tuple(argument);
    if (requests == NULL) return NULL;
    Py_ssize_t num_requests = PyTuple_GET_SIZE(requests);
    PyObject *result = NULL;
    Departure *departures = PyMem_Calloc((size_t)num_requests + 1, sizeof(Departure));
    if (departures == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t index = 0; index < num_requests; index++) {
        Departure *to = &departures[index];
        PyObject *payload;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(requests, index), "iSL", &to->fd, &payload, &to->due_ns)) goto done;
        to->payload = PyBytes_AS_STRING(payload);
        to->num_bytes = PyBytes_GET_SIZE(payload);
    }
    for (Py_ssize_t index = 0; index < num_requests; index++) depart(&departures[index]);
    result = PyList_New(num_requests);
    for (Py_ssize_t index = 0; result != NULL && index < num_requests; index++) {
        const Departure *gone = &departures[index];
        PyObject *item = Py_BuildValue("(nLL)", gone->num_sent, (long long)gone->began_ns, (long long)gone->sent_ns);
        if (item == NULL) Py_CLEAR(result);
        else PyList_SET_ITEM(result, index, item);
    }
done:
    PyMem_Free(departures);
    Py_DECREF(requests);
    return result;
}
