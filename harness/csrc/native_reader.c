/* The module llmbench.harness.native_reader. */
#include "native_reader.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "llmbench.harness.native_reader",
    .m_doc = "Reads the sockets of a load.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit_native_reader(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    if (PyModule_AddType(made, &ChunkLogType) < 0 || PyModule_AddType(made, &ReadSetType) < 0 ||
        PyModule_AddIntConstant(made, "READ_BYTES", READ_BYTES) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
