"""The verb ``nnunet_ssl preprocess``."""

from nnunet_ssl.cli.options import Configurations, Datasets, Plans, Processes


def preprocess(
    datasets: Datasets,
    configuration: Configurations = None,
    plans: Plans = "nnUNetPlans",
    processes: Processes = None,
) -> None:
    """Preprocess the unlabeled cases (imagesUnlabeled) with the plans of the labeled ones."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.preparation.preprocessing import preprocess_dataset

    for number in map(dataset_id, datasets):
        preprocess_dataset(number, configuration, plans, processes)
