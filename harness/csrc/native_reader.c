/* The module llmbench.harness.native_reader. */
#include "native_reader.h"

static PyMethodDef functions[] = {
    {"send_due", send_due, METH_O, "Send each (fd, payload, due_ns) when it is due: [(num_sent, began_ns, sent_ns)]."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "llmbench.harness.native_reader",
    .m_doc = "Reads the sockets of a load, and sends what is due.",
    .m_size = -1,
    .m_methods = functions,
};

/* Counted up whenever Python needs something else of this module: an install in place can leave an old one behind. */
#define INTERFACE 2

PyMODINIT_FUNC PyInit_native_reader(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    if (PyModule_AddType(made, &ChunkLogType) < 0 || PyModule_AddType(made, &ReadSetType) < 0 ||
        PyModule_AddIntConstant(made, "READ_BYTES", READ_BYTES) < 0 ||
        PyModule_AddIntConstant(made, "INTERFACE", INTERFACE) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
