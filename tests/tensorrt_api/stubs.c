/* Stands in for the libraries of TensorRT 8, 10 and 11, so that the real Python bindings load where those are absent.
 * The factories give NULL, as they do on a machine without a driver. Built once for each name that the bindings link;
 * the mangled names are what the bindings of 8.5 take from libnvparsers.so.8. */
#define GIVES_NULL(name) \
    void *name(void) { return 0; }

GIVES_NULL(createInferBuilder_INTERNAL)
GIVES_NULL(createInferRefitter_INTERNAL)
GIVES_NULL(createInferRuntime_INTERNAL)
GIVES_NULL(createNvOnnxParser_INTERNAL)
GIVES_NULL(createNvOnnxParserRefitter_INTERNAL)
GIVES_NULL(getBuilderPluginRegistry)
GIVES_NULL(getPluginRegistry)
GIVES_NULL(_ZN11nvuffparser15createUffParserEv)
GIVES_NULL(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
GIVES_NULL(_ZN14nvcaffeparser117createCaffeParserEv)
GIVES_NULL(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)

int getInferLibVersion(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }
