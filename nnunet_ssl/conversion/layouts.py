"""What the help of each converter shows: the download as a tree, the protocols, and what a part of the data needs.

Plain text without an import, for help must come at once; tests compare it with the lists and with what is read.
"""

from inspect import cleandoc

PART = "The source may lack unlabeled or test scans: --skip-missing leaves out what is not there, and says so."

LAYOUTS = {
    "la": """
        SOURCE/
          2018LA_Seg_Training Set/         or any name, or SOURCE itself
            0RZDK210BSMWAA6467LU/          one folder per scan
              mri_norm2.h5                 preprocessed, with its label; or
              lgemri.nrrd  laendo.nrrd     as the challenge gave them
          train.list  test.list            if there, in place of those published

        ua-mt-4        4 labeled +  76 unlabeled, 20 test
        ua-mt-8        8 labeled +  72 unlabeled, 20 test (default)
        ua-mt-16      16 labeled +  64 unlabeled, 20 test
        """,
    "acdc": """
        SOURCE/
          training/                        as the challenge gave it:
            patient001/
              Info.cfg
              patient001_frame01.nii.gz  patient001_frame01_gt.nii.gz
              patient001_frame12.nii.gz  patient001_frame12_gt.nii.gz
          data/                            or the h5 files of SSL4MIS:
            patient001_frame01.h5          or its ..._slice_1.h5 and so on

        Patients, two frames each:
        ssl4mis-3      3 labeled +  67 unlabeled, 20 test
        ssl4mis-7      7 labeled +  63 unlabeled, 20 test (default)
        ssl4mis-14    14 labeled +  56 unlabeled, 20 test
        """,
    "synapse": """
        SOURCE/
          RawData/Training/                as downloaded:
            img/img0001.nii.gz
            label/label0001.nii.gz
          imagesTr/img0001.nii.gz          or so:
          labelsTr/label0001.nii.gz

        genericssl-20  4 labeled +  16 unlabeled,  6 test,  4 validation (default)
        dhc-10         2 labeled +  18 unlabeled,  6 test,  4 validation
        dhc-20         4 labeled +  16 unlabeled,  6 test,  4 validation
        dhc-40         8 labeled +  12 unlabeled,  6 test,  4 validation
        """,
    "amos": """
        SOURCE/
          amos22/                          or SOURCE itself
            imagesTr/amos_0001.nii.gz  labelsTr/amos_0001.nii.gz
            imagesVa/amos_0008.nii.gz  labelsVa/amos_0008.nii.gz   the test scans
            imagesTs/                      with --released-unlabeled

        dhc-2          4 labeled + 212 unlabeled, 120 test, 24 validation
        dhc-5         10 labeled + 206 unlabeled, 120 test, 24 validation (default)
        dhc-10        21 labeled + 195 unlabeled, 120 test, 24 validation
        """,
    "lits": """
        SOURCE/                            in one folder or several
          volume-0.nii  segmentation-0.nii    to 130, also .nii.gz
          test-volume-0.nii                   not used

        desco-5        5 labeled +  95 unlabeled, 31 test (default)
        """,
    "msd": """
        SOURCE/                            the folder TaskNN_Name
          dataset.json
          imagesTr/hippocampus_001.nii.gz  labelsTr/hippocampus_001.nii.gz
          imagesTs/hippocampus_002.nii.gz

        No published protocol: the first 10% of the cases are labeled, or --labeled.
        """,
    "pancreas": """
        SOURCE/
          PANCREAS_0001/                   DICOM files in it or below
          TCIA_pancreas_labels-02-05-2017/
            label0001.nii.gz

        mc-net-6       6 labeled +  56 unlabeled, 20 test
        mc-net-12     12 labeled +  50 unlabeled, 20 test (default)
        """,
}


def layout_help(name: str) -> str:
    """Of a data set, in paragraphs that a help shows as they stand: each begins with the sign for that."""
    paragraphs = cleandoc(LAYOUTS[name]).split("\n\n")
    return "\n\n".join([*(f"\b\n{paragraph}" for paragraph in paragraphs), PART])
