"""Clients of the kubernetes package from the configuration at hand: a kubeconfig, or the pod's service account."""

import os
from typing import Any

from tidegate.errors import DeploymentError, in_one_line

_IN_A_POD, _KUBECONFIG = "KUBERNETES_SERVICE_HOST", "KUBECONFIG"


def load_client() -> Any:
    """Return an ApiClient for the kubeconfig that KUBECONFIG names, else the pod's service account, else ~/.kube/config.

    Raises:
        DeploymentError: No configuration is there, or it cannot be read.
    """
    import urllib3
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if os.environ.get(_IN_A_POD) and not os.environ.get(_KUBECONFIG):
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(config_file=os.environ.get(_KUBECONFIG) or None, client_configuration=configuration)
    except Exception as error:  # the loaders raise ConfigException, KeyError, TypeError, YAML's and the plugins' own errors
        raise DeploymentError(
            f"no cluster can be reached: {in_one_line(error)}; set {_KUBECONFIG}, or run in a pod with a service account"
        ) from error
    if not configuration.verify_ssl:  # as the kubeconfig asks; kubectl does not warn either
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    configuration.retries = False  # Connection tries again itself, and knows what is safe
    return client.ApiClient(configuration)
